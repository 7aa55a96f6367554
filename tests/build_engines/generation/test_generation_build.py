"""The steps of a generator's build in the pipeline: what is published, reused, refused and reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as pb
from typer.testing import CliRunner

from build_engines.generation.repository import INPUTS, OUTPUTS
from build_engines.pipeline import check_step_name, make_context, step_names
from python_backends.generator.settings import GeneratorSettings
from tritonforge.cli import app
from tritonforge.console import console
from tritonforge.errors import EngineError, GateError, RecipeError, UsageError
from tritonforge.recipe import Recipe, dump_recipe

PART = "openvino-genai-fp16"
STEPS = ["resolve", "import", "tokenize", "export", "compress", "check", "measure", "gate", "publish"]


def statuses(report: Any) -> dict[str, str]:
    return {step.step: step.status for step in report.steps}


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())


@pytest.fixture
def spoilt(toy: Any, tmp_path: Path) -> Any:
    """A copy of the built toy that a test may change."""
    return toy.copied(tmp_path)


# -- what is published


def test_the_version_folder(toy: Any) -> None:
    (model,) = toy.repository.iterdir()
    assert model.name == "toy"
    names = {path.name for path in (model / "1").iterdir()}
    assert names == {
        "model.py",
        "served_backends",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        *(
            f"openvino_{part}.{end}"
            for part in ("model", "tokenizer", "detokenizer")
            for end in ("xml", "bin")
        ),
    }
    assert "generator.model import TritonPythonModel" in (model / "1" / "model.py").read_text()
    manifest = json.loads((model / "tritonforge.json").read_text())
    assert (manifest["recipe"], manifest["version"], manifest["models"]) == ("toy", 1, ["toy"])
    facts = manifest["build"]
    assert (facts["task"], facts["engine"], facts["precision"]) == ("generation", "openvino-genai", "fp16")
    assert Recipe.model_validate(facts["recipe"]) == toy.recipe()


def test_the_configuration(toy: Any) -> None:
    config = config_of(toy.repository / "toy")
    assert (config.backend, config.max_batch_size) == ("python", 0)
    assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")
    assert [tensor.name for tensor in config.input] == list(INPUTS)
    assert all(tensor.optional for tensor in config.input)
    assert [tensor.name for tensor in config.output] == list(OUTPUTS)
    settings = GeneratorSettings.parse(json_format.MessageToDict(config, preserving_proto_field_name=True))
    assert settings.stop_token_ids == tuple(toy.context.settled.facts.stop_ids)
    assert (settings.max_length, settings.kv_cache_tokens, settings.threads) == (512, 16384, 1)
    assert (settings.compute, settings.kv_cache_precision) == ("f32", "f32")
    assert config.parameters["task"].string_value == "generation"


def test_the_recipe_reaches_the_backend(spoilt: Any) -> None:
    keys: dict[str, Any] = {
        "generation": {
            "max_num_seqs": 3,
            "max_num_batched_tokens": 64,
            "max_tokens": 9,
            "kv_cache_mib": 1,
            "kv_cache_precision": "f16",
            "prefix_caching": False,
            "prompt_lookup_tokens": 4,
        },
        "queue": {"max_size": 7, "timeout_us": 8, "timeout_action": "delay", "allow_timeout_override": False},
        "limits": {"max_text_bytes": 999},
        "max_length": 300,
    }
    spoilt(**keys)
    config = config_of(spoilt.repository / "toy")
    settings = GeneratorSettings.parse(json_format.MessageToDict(config, preserving_proto_field_name=True))
    assert (settings.max_num_seqs, settings.max_num_batched_tokens, settings.max_tokens) == (3, 64, 9)
    assert settings.kv_cache_tokens == (1 << 20) // (2 * 2 * 2 * 16 * 2) // 32 * 32
    assert (settings.prefix_caching, settings.prompt_lookup_tokens, settings.max_length) == (False, 4, 300)
    queue = settings.queue
    assert (queue.max_size, queue.timeout_us, queue.timeout_action) == (7, 8, "delay")
    assert (queue.allow_timeout_override, settings.max_text_bytes) == (False, 999)


def test_the_old_version_stays_beside_the_new_one(spoilt: Any) -> None:
    spoilt(generation={"max_tokens": 11})
    assert {p.name for p in (spoilt.repository / "toy").iterdir() if p.is_dir()} == {"1", "2"}
    assert config_of(spoilt.repository / "toy").parameters["max_tokens"].string_value == "11"


def test_an_encoder_of_the_same_name_goes_away(
    spoilt: Any, tiny_repository: Path, tiny_build: Callable[..., Any]
) -> None:
    tiny_build("bert", "embedding")
    shutil.rmtree(spoilt.repository)
    spoilt.repository.mkdir()
    for part in ("", "_tokenizer", "_engine"):
        shutil.copytree(tiny_repository / f"bert-embedding{part}", spoilt.repository / f"toy{part}")
    spoilt()
    assert [path.name for path in spoilt.repository.iterdir()] == ["toy"]
    assert config_of(spoilt.repository / "toy").max_batch_size == 0


# -- steps


def test_all_is_reused(spoilt: Any) -> None:
    done = statuses(spoilt())
    assert list(done) == STEPS
    made = {name for name, status in done.items() if status == "done"}
    assert made == {"resolve", "gate"} and done["import"] == "skipped"


def test_what_a_changed_setting_makes_anew(spoilt: Any) -> None:
    done = statuses(spoilt(generation={"kv_cache_precision": "u8"}))
    assert (done["export"], done["compress"]) == ("reused", "reused")
    assert (done["check"], done["measure"], done["publish"]) == ("done", "done", "done")


def test_a_step_can_be_done_anew_and_be_the_last(spoilt: Any) -> None:
    done = statuses(spoilt(rerun="compress", until="compress"))
    assert list(done)[-1] == "compress"
    assert (done["export"], done["compress"]) == ("reused", "done")


def test_steps_by_task(toy: Any) -> None:
    known = step_names(toy.recipe())
    assert list(known) == STEPS
    check_step_name("--until", "import", known)
    with pytest.raises(UsageError, match="'quantize' is no step"):
        check_step_name("--until", "quantize", known)
    with pytest.raises(UsageError, match="this is for encoders"):
        make_context(toy.recipe(), Path("toy.yaml"), toy.repository, toy.root)


# -- the gate


def test_what_says_other_things_is_refused_unless_forced(
    spoilt: Any, new_builder: Callable[..., Any], tiny_family: Callable[..., Path], tmp_path: Path
) -> None:
    """The served file holds another model's weights, as if the export had gone wrong."""
    other = new_builder(tiny_family("qwen2"), tmp_path)
    other(until="compress")
    spoilt(until="compress")
    folder = spoilt.context.candidates[PART].folder
    for path in other.context.candidates[PART].folder.glob("openvino_model.*"):
        shutil.copy(path, folder / path.name)
    shutil.rmtree(spoilt.repository)
    with pytest.raises(GateError, match="answers") as caught:
        spoilt(rerun="check")
    failures = [c["name"] for c in caught.value.figures["verdicts"][PART]["checks"] if c["outcome"] == "fail"]
    assert "answers" in failures
    assert not spoilt.repository.exists()
    report = json.loads((spoilt.root / "build" / "toy" / "report.json").read_text())
    assert report["status"] == "failed"
    assert report["steps"][-1]["figures"]["verdicts"][PART]["passed"] is False
    page = (spoilt.root / "build" / "toy" / "report.html").read_text()
    assert "perplexity" in page and "nothing was published" in page

    forced = spoilt(force=True)
    assert "FORCED" in forced.step("gate").notes[1]
    assert json.loads((spoilt.repository / "toy" / "tritonforge.json").read_text())["build"]["forced"] is True


def test_auto_serves_the_fastest_of_all_that_pass(spoilt: Any) -> None:
    report = spoilt(precision="auto")
    parts = [f"openvino-genai-{p}" for p in ("fp16", "int8-weights", "int4-weights")]
    assert list(report.figures("check")) == list(report.figures("measure")) == parts
    sizes = [report.figures("compress")[part]["bytes"] for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    verdicts, rates = report.gate["verdicts"], report.figures("measure")
    passed = [part for part in parts if verdicts[part]["passed"]]
    assert report.gate["chosen"] == max(passed, key=lambda part: rates[part]["tokens_per_second"]["8"])
    published = json.loads((spoilt.repository / "toy" / "tritonforge.json").read_text())["build"]
    assert f"openvino-genai-{published['precision']}" == report.gate["chosen"]


def test_texts_of_the_recipe_are_the_measure(spoilt: Any, tmp_path: Path) -> None:
    texts = tmp_path / "held.txt"
    texts.write_text("The door opens by itself.\nA second line of text.\n\n")
    report = spoilt(gate={"texts": str(texts)}, until="check")
    found = report.figures("check")[PART]
    assert 2 < found["places"] < 60
    assert report.step("check").notes == (f"judged on {texts}",)


# -- refused at once


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"precision": "bf16"}, "openvino-genai does not serve weights in bf16"),
        (
            {"engine": "tensorrt-llm", "precision": "int4-weights"},
            "tensorrt-llm does not serve weights in int4",
        ),
        ({"generation": {"compute": "bf16"}}, "in bfloat16, and the model's have 16"),
        ({"max_length": 513}, "513 tokens, and the model can be served up to 512"),
        ({"gate": {"texts": "/none/such"}}, "there is no /none/such"),
    ],
)
def test_recipes_that_cannot_be_built(spoilt: Any, keys: dict[str, Any], says: str) -> None:
    before = (spoilt.repository / "toy" / "tritonforge.json").read_bytes()
    with pytest.raises(RecipeError, match=says) as caught:
        spoilt(**keys)
    assert caught.value.where
    assert (spoilt.repository / "toy" / "tritonforge.json").read_bytes() == before


def test_a_model_that_the_engine_cannot_load(spoilt: Any) -> None:
    spoilt(until="compress")
    graph = spoilt.context.candidates[PART].folder / "openvino_model.xml"
    graph.write_text(graph.read_text().replace("ReadValue", "ReedValue"))
    with pytest.raises((EngineError, RuntimeError), match="ReedValue"):
        spoilt(rerun="check")


# -- TensorRT-LLM, which compiles where it is served


def test_tensorrt_llm_takes_the_weights_as_they_are(spoilt: Any) -> None:
    report = spoilt(engine="tensorrt-llm", precision="bf16")
    done = statuses(report)
    assert {name for name, status in done.items() if status == "skipped"} == {
        "import",
        "export",
        "check",
        "measure",
    }
    folder = spoilt.repository / "toy" / "2"
    names = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names and not any(name.startswith("openvino") for name in names)
    assert (folder / "model.safetensors").read_bytes() == (spoilt.model / "model.safetensors").read_bytes()
    parameters = config_of(spoilt.repository / "toy").parameters
    assert parameters["engine"].string_value == "tensorrt-llm"
    assert parameters["precision"].string_value == "bf16"
    assert "nothing was checked" in report.step("check").notes[0]


# -- the report, and the command


def test_the_report_says_what_was_found(toy: Any) -> None:
    folder = toy.root / "build" / "toy"
    report = json.loads((folder / "report.json").read_text())
    assert report["status"] == "ok" and "openvino-genai" in report["versions"]
    text = (folder / "report.md").read_text()
    assert "openvino-genai fp16 is served, version 1" in text
    assert f"| **{PART}** |" in text and "| tokens/s at 1 | tokens/s at 8 |" in text
    assert "texts/s" not in text
    page = (folder / "report.html").read_text()
    assert '<h2 id="precisions">' in page and "tokens/s at 8" in page
    assert "mean cosine" not in page


def test_the_command(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(dump_recipe(toy.recipe()))
    shutil.copytree(toy.root, tmp_path / "copy")
    arguments = [
        "build",
        str(recipe),
        "--repository",
        str(tmp_path / "copy" / "repository"),
        "--build-dir",
        str(tmp_path / "copy" / "build"),
    ]
    monkeypatch.setattr(console, "width", 160)  # beside other tests it may have read a narrower one already
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert PART in shown.output and "tokens/s at 8" in shown.output and "pass, served" in shown.output
    as_json = CliRunner().invoke(app, [*arguments, "--json", "--until", "compress"])
    assert json.loads(as_json.stdout)["steps"][-1]["step"] == "compress"
