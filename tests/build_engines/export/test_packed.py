"""Packed attention against each model's own eager attention, in torch, without an export."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from build_engines.check.reference import reference_outputs
from build_engines.export.adapters import adapt
from build_engines.export.load import load_model
from build_engines.export.modules import PackedModule
from build_engines.export.packed import ATTENTION_NAME, PackedLayout
from build_engines.model_files import find_model
from build_engines.spec import ModelSpec, settle_spec
from python_backends.openvino_graph import MASKED_SCORE
from python_backends.packing import flatten, pack
from tritonforge.recipe import Recipe

ARCHITECTURES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "modernbert",
    "albert",
    "qwen3",
]
Ids = NDArray[np.int32]
lengths = st.lists(st.integers(1, 64), min_size=1, max_size=8)
quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Pair:
    """One model twice: packed, and as transformers runs it."""

    def __init__(self, folder: Path, **recipe: Any) -> None:
        files = find_model(str(folder))
        keys = {"name": "toy", "model": str(folder), **recipe}
        self.spec: ModelSpec = settle_spec(Recipe.model_validate(keys), files)
        self.eager = load_model(files, self.spec.task, "eager")
        model = load_model(files, self.spec.task, ATTENTION_NAME)
        adapt(model)
        self.module = PackedModule(model, self.spec).eval()

    def difference(self, sequences: list[Ids]) -> float:
        """Largest difference between packed and one by one."""
        expected = reference_outputs(self.eager, self.spec, sequences)
        return float(np.abs(self.packed(sequences) - expected).max())

    @torch.inference_mode()
    def packed(self, sequences: list[Ids]) -> NDArray[np.float32]:
        batch = flatten([ids[None] for ids in sequences])
        inputs = pack(batch, np.arange(batch.count))
        found: NDArray[np.float32] = self.module(
            **{k: torch.from_numpy(v) for k, v in inputs.items()}
        ).numpy()
        return found

    def draw(self, sizes: list[int], seed: int = 0) -> list[Ids]:
        """Any ids at all, the padding token among them."""
        rng = np.random.default_rng(seed)
        return [rng.integers(0, self.spec.vocab_size, n, dtype=np.int32) for n in sizes]


@pytest.fixture(scope="session")
def pair(tiny_model: Callable[..., Path]) -> Callable[..., Pair]:
    @cache
    def load(architecture: str, task: str = "embedding", pooling: str = "mean", **config: Any) -> Pair:
        recipe = {"embedding": {"pooling": pooling}} if task == "embedding" else {}
        return Pair(tiny_model(architecture, task, **config), **recipe)

    return load


@quick
@given(lengths=lengths, seed=st.integers(0, 2**32 - 1))
@example(lengths=[1], seed=0)
@example(lengths=[64] * 3, seed=0)
@example(lengths=[1, 64, 1], seed=0)
def test_layout(lengths: list[int], seed: int) -> None:
    bounds = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    tokens = int(bounds[-1])
    layout = PackedLayout.of(
        torch.zeros(tokens, dtype=torch.int32), bounds, torch.zeros(max(lengths), dtype=torch.int32)
    )
    assert layout.sequence_of.tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()
    assert layout.position_of.tolist() == [i for n in lengths for i in range(n)]
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, 2, tokens, 3, generator=generator)
    rectangle = layout.rectangle(states)
    assert rectangle.shape == (len(lengths), 2, max(lengths), 3)
    assert torch.equal(layout.tokens(rectangle)[0], states[0].transpose(0, 1))
    seen = layout.key_bias[:, 0, 0] == 0
    assert seen.sum(dim=1).tolist() == lengths
    assert torch.all(layout.key_bias[~seen[:, None, None]] == MASKED_SCORE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_layout_equals_eager(pair: Callable[..., Pair], architecture: str) -> None:
    model = pair(architecture)

    @quick
    @given(lengths=lengths, seed=st.integers(0, 2**32 - 1))
    def check(lengths: list[int], seed: int) -> None:
        sizes = [min(n, model.spec.max_length) for n in lengths]
        assert model.difference(model.draw(sizes, seed)) < 2e-5

    check()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "modernbert", "albert"])
def test_classifiers(pair: Callable[..., Pair], architecture: str) -> None:
    model = pair(architecture, "classification")
    assert model.difference(model.draw([5, 1, 64, 17, 2])) < 2e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_poolings(pair: Callable[..., Pair], architecture: str, pooling: str) -> None:
    model = pair(architecture, pooling=pooling)
    assert model.difference(model.draw([5, 1, 64, 17, 2])) < 2e-5


def test_modernbert_may_classify_by_the_mean(pair: Callable[..., Pair]) -> None:
    by_mean = pair("modernbert", "classification", classifier_pooling="mean")
    assert by_mean.spec.head_pooling == "mean"
    assert by_mean.difference(by_mean.draw([5, 1, 64, 17, 2])) < 2e-5


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "mpnet"])
@pytest.mark.parametrize("where", ["first", "middle", "last", "all"])
def test_the_padding_token_inside_a_text(pair: Callable[..., Pair], architecture: str, where: str) -> None:
    """Positions are counted over other tokens; a text may spell the padding token out."""
    model = pair(architecture)
    padding = model.eager.base_model.embeddings.position_embeddings.padding_idx
    texts = model.draw([9, 4, 20])
    for ids in texts:
        ids[ids == padding] += 1
    plain = model.packed(texts)
    spot = {"first": slice(0, 1), "middle": slice(2, 4), "last": slice(-1, None), "all": slice(None)}[where]
    texts[0][spot] = padding
    assert model.difference(texts) < 2e-5
    changed = model.packed(texts)
    assert np.abs(changed[0] - plain[0]).max() > 1e-3
    np.testing.assert_allclose(changed[1:], plain[1:], atol=1e-5)


def test_local_attention_keeps_to_its_window(pair: Callable[..., Pair]) -> None:
    """ModernBERT with local layers alone: a far token cannot matter, a near one does."""
    model = pair("modernbert", pooling="cls", num_hidden_layers=2, layer_types=("sliding_attention",) * 2)
    ids = model.draw([60])[0]
    far, near = ids.copy(), ids.copy()
    far[40] = (far[40] + 1) % model.spec.vocab_size
    near[3] = (near[3] + 1) % model.spec.vocab_size
    rows = model.packed([ids, far, near])
    assert np.abs(rows[0] - rows[1]).max() < 1e-5
    assert np.abs(rows[0] - rows[2]).max() > 1e-3
    assert model.difference([ids, far, near]) < 2e-5


def test_causal_attention_looks_back_only(pair: Callable[..., Pair]) -> None:
    model = pair("qwen3", pooling="cls")
    ids = model.draw([12])[0]
    changed = ids.copy()
    changed[5:] = changed[::-1][:7]
    rows = model.packed([ids, changed])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)


def test_masked_scores_hold_in_float16() -> None:
    assert torch.isfinite(torch.tensor(MASKED_SCORE, dtype=torch.float16))
