"""The TensorRT path on a GPU: build, run against ONNX Runtime, serve in Triton.

None of it has run yet where there was a GPU; see docs/tensorrt.md.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.check.execute import run_sequences
from build_engines.engines import ENGINES, CompiledEngine, CompileRequest
from build_engines.repository.assemble import assemble
from build_engines.repository.publish import publish
from clients import Client
from python_backends.runners import OnnxRuntimeRunner
from tritonforge.errors import EngineError
from tritonforge.recipe import Precision, Recipe
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.plans import visible_gpus

TENSORRT = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_bindings"))
BACKEND = Path("/opt/tritonserver/backends/tensorrt")
TEXTS = ["A door opens by itself.", "rain", "fire " * 100, "so it goes, and goes on for a while", "x"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not visible_gpus(), reason="nvidia-smi lists no GPU"),
    pytest.mark.skipif(not TENSORRT, reason="TensorRT is not installed"),
]

# Cosine to float32 of a random tiny model, whose numbers no training has made robust.
LEAST_COSINE: dict[Precision, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.99}


@pytest.fixture(scope="module")
def compile_plan(
    tiny_build: Callable[[str, str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[CompileRequest, CompiledEngine]]:
    """Compiles the tiny BERT, once for each set of arguments."""
    made: dict[str, tuple[CompileRequest, CompiledEngine]] = {}

    def make(precision: Precision, task: str = "embedding", **tensorrt: Any) -> Any:
        key = json.dumps([precision, task, tensorrt], sort_keys=True)
        if key not in made:
            context = tiny_build("bert", task).context
            root = tmp_path_factory.mktemp("plan")
            folders = {name: root / name for name in ("folder", "notes", "cache")}
            for folder in folders.values():
                folder.mkdir()
            recipe = Recipe.model_validate(
                {"name": f"toy-{task}", "model": "toy", "precision": precision, "tensorrt": tensorrt}
            )
            request = CompileRequest(
                context.exported, precision, context.layout, context.settled, recipe, **folders
            )
            file = ENGINES["tensorrt"].compile(request)
            made[key] = request, CompiledEngine("tensorrt", precision, request.layout, request.folder, file)
        return made[key]

    return make


def sequences(vocab_size: int, longest: int) -> list[Any]:
    rng = np.random.default_rng(0)
    lengths = [1, longest, *rng.integers(1, longest, 200)]
    return [rng.integers(0, vocab_size, length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize("preset", ["throughput", "latency"])
@pytest.mark.parametrize("precision", list(LEAST_COSINE))
def test_the_plan_gives_onnx_runtime_s_numbers(
    compile_plan: Callable[..., Any], precision: Precision, preset: str
) -> None:
    request, compiled = compile_plan(precision, preset=preset)
    texts = sequences(request.spec.vocab_size, request.spec.max_length)
    budget = request.recipe.batching.token_budget
    runner = ENGINES["tensorrt"].load(compiled, 0)
    # At most max_batch_size texts at a time, as Triton would hand them over.
    size = request.recipe.batching.max_batch_size
    rows = np.concatenate(
        [
            run_sequences(runner, request.spec, request.layout, texts[start : start + size], budget)
            for start in range(0, len(texts), size)
        ]
    )
    reference = OnnxRuntimeRunner(request.onnx_path, 0)
    expected = run_sequences(reference, request.spec, request.layout, texts, budget)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.sum(rows * expected, axis=1) / norms).min() > LEAST_COSINE[precision]


def test_what_is_kept_beside_the_plan(compile_plan: Callable[..., Any]) -> None:
    request, compiled = compile_plan("fp16", preset="latency")
    inspector = json.loads((request.notes / "inspector.json").read_text())
    assert inspector["Layers"]
    assert list(request.cache.glob("timing-*.cache"))
    assert {path.name for path in compiled.folder.iterdir()} == {"model.plan", "identity.json"}
    assert ENGINES["tensorrt"].check(compiled) == []


def test_a_damaged_plan_is_refused(compile_plan: Callable[..., Any], tmp_path: Path) -> None:
    _, compiled = compile_plan("fp16", preset="latency")
    shutil.copytree(compiled.folder, tmp_path / "damaged")
    plan = tmp_path / "damaged" / compiled.model_file
    plan.write_bytes(plan.read_bytes()[:-1000])
    with pytest.raises(EngineError):
        ENGINES["tensorrt"].load(
            CompiledEngine("tensorrt", "fp16", "packed", plan.parent, compiled.model_file), 0
        )


@pytest.fixture(scope="module")
def server(
    compile_plan: Callable[..., Any],
    tiny_build: Callable[[str, str], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonServer]:
    if not BACKEND.is_dir():
        pytest.skip(f"there is no {BACKEND}: not in Triton's container")
    repository = tmp_path_factory.mktemp("repository")
    for task in ("embedding", "classification"):
        request, compiled = compile_plan("fp16", task, preset="latency")
        staging = tmp_path_factory.mktemp("staging")
        tokenizer = tiny_build("bert", task).context.tokenizer
        assemble(request.recipe, tokenizer, request.spec, compiled, staging, 1, "key", {})
        publish(staging, repository, request.recipe.name)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    log = tmp_path_factory.mktemp("log") / "gpu.log"
    with log.open("wb") as sink, TritonServer(repository, options, log_sink=sink) as running:
        yield running


def test_triton_serves_it(
    server: TritonServer, tiny_model: Callable[..., Path], transformers_answer: Callable[..., Any]
) -> None:
    texts = TEXTS * 30
    with Client(server.grpc_url, "toy-embedding") as client:
        rows = client.embed(texts)
    expected = transformers_answer(tiny_model("bert"), texts)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.sum(rows * expected, axis=1) / norms).min() > LEAST_COSINE["fp16"]


def test_triton_serves_classes(
    server: TritonServer, tiny_model: Callable[..., Path], transformers_answer: Callable[..., Any]
) -> None:
    with Client(server.grpc_url, "toy-classification") as client:
        scores = client.classify(TEXTS).scores
    expected = transformers_answer(tiny_model("bert", "classification"), TEXTS)
    np.testing.assert_allclose(scores, expected, atol=0.02)
