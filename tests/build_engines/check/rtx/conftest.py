"""A MiniLM cut short: its first two layers, all of a kind, compile in a third of the time."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

_LAYERS, _WORDS = 2, 1000


@pytest.fixture(scope="session")
def short_minilm(minilm_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed float32 export with two of its six layers, and few words."""
    model = ir.load(minilm_onnx)
    norms = [node for node in model.graph if node.op_type == "LayerNormalization"]
    # One behind the embeddings, and two in each layer.
    ir.convenience.replace_all_uses_with(norms[-1].outputs[0], norms[2 * _LAYERS].outputs[0])
    RemoveUnusedNodesPass()(model)
    (words,) = (value for name, value in model.graph.initializers.items() if "word_embeddings" in name)
    assert words.const_value is not None
    words.const_value = ir.tensor(words.const_value.numpy()[:_WORDS], name=words.name)
    words.shape = words.const_value.shape
    path = tmp_path_factory.mktemp("short") / "minilm.onnx"
    ir.save(model, path)
    return path
