from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from build_engines.estimate.architecture import read_architecture
from build_engines.estimate.graph import Graph
from build_engines.estimate.workload import Run
from build_engines.model_files import find_model
from tritonforge.errors import ModelFilesError

RUN = Run(np.array([3, 9, 17, 17]), padded=False)


@pytest.mark.parametrize("architecture", ["bert", "albert", "distilbert", "electra", "modernbert", "qwen3"])
def test_all_parameters_are_counted_and_the_work_is_that_of_the_exported_graph(
    architecture: str, tiny_model: Callable[..., Path], tiny_build: Callable[..., Any]
) -> None:
    import transformers

    folder = tiny_model(architecture)
    found = read_architecture(find_model(str(folder)))
    model = transformers.AutoModel.from_pretrained(folder)
    assert found.total == model.num_parameters()
    graph = Graph(tiny_build(architecture, "embedding").context.exported)
    cost = graph.cost(RUN)
    assert found.flops_per_token() * RUN.tokens == pytest.approx(cost.linear_flops, rel=0.01)
    # Pooling is a product of two computed tensors too, and counts little.
    pooling = 2 * RUN.sequences * RUN.tokens * found.hidden
    assert found.attention_flops(RUN.cells) + pooling == pytest.approx(cost.attention_flops, rel=0.05)


def test_a_classifiers_head_is_told_from_its_encoder(tiny_model: Callable[..., Path]) -> None:
    found = read_architecture(find_model(str(tiny_model("bert", "classification"))))
    hidden, labels = 32, 3
    assert found.parameters["head"] == hidden * hidden + hidden + labels * hidden + labels
    assert found.head_macs == hidden * hidden + labels * hidden
    assert found.served_parameters("classification") == found.total
    assert found.served_parameters("embedding") == found.total - found.parameters["head"]


def test_only_linear_layers_shrink_with_int8_and_int4(tiny_model: Callable[..., Path]) -> None:
    found = read_architecture(find_model(str(tiny_model("bert"))))
    others = found.served_parameters("embedding") - found.linear_elements
    assert found.weight_bytes("embedding", "fp32", 4) == 4 * found.served_parameters("embedding")
    assert found.weight_bytes("embedding", "fp16", 2) == 2 * found.served_parameters("embedding")
    int8 = found.weight_bytes("embedding", "int8", 2)
    assert int8 == found.linear_elements + 4 * found.linear_outputs + 2 * others
    int4 = found.weight_bytes("embedding", "int4-weights", 4)
    assert found.linear_elements // 2 < int4 - 4 * others < found.linear_elements


def test_weights_in_float32_are_those_of_the_exported_graph(tiny_build: Callable[..., Any]) -> None:
    context = tiny_build("bert", "embedding").context
    weights = onnx.load(context.exported).graph.initializer
    exported = sum(4 * math.prod(tensor.dims) for tensor in weights if tensor.data_type == TensorProto.FLOAT)
    found = read_architecture(context.model).weight_bytes("embedding", "fp32", 4)
    assert found == pytest.approx(exported, rel=0.02)


def test_a_config_without_sizes_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("bert"), folder)
    (folder / "config.json").write_text('{"model_type": "bert", "vocab_size": 400}')
    with pytest.raises(ModelFilesError, match="num_hidden_layers"):
        read_architecture(find_model(str(folder)))
