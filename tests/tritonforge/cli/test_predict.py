"""`tritonforge predict` on a model that generates and on one that embeds, both toys on a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from tritonforge.cli import app
from tritonforge.errors import RepositoryError, ServerError, UsageError
from tritonforge.server import TritonServer


def run(server: TritonServer, model: str, *arguments: str) -> Any:
    result = CliRunner().invoke(app, ["predict", model, "--url", server.grpc_url, *arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["whole", "stream"])
@pytest.mark.parametrize("chat", [[], ["--chat"]], ids=["text", "chat"])
def test_output_tokens_and_latency(text_server: TritonServer, stream: list[str], chat: list[str]) -> None:
    said = run(text_server, "toy_generator", "one Sätze three", "--max-tokens", "2", *stream, *chat).stdout
    answer, figures = said.splitlines()
    assert answer == "one Sätze"
    assert figures.startswith("2 tokens, ") and " ms" in figures
    assert figures.endswith("cut at its token limit")
    assert ("first after" in figures) == bool(stream)


def test_json(text_server: TritonServer) -> None:
    found = json.loads(run(text_server, "toy_generator", "one two", "three", "--stream", "--json").stdout)
    first, second = found["answers"]
    assert (first["text"], first["output"], first["tokens_generated"]) == ("one two", "one two", 2)
    assert (second["output"], second["finish_reason"], second["prompt_tokens"]) == ("three", "stop", 1)
    assert second["latency_ms"] > 0


def test_the_options_arrive(text_server: TritonServer) -> None:
    options = ["--temperature", "0.5", "--top-p", "0.25", "--top-k", "5", "--seed", "9"]
    found = run(text_server, "toy_generator", "!inputs", *options, "--stop", "a", "--stop", "b", "--json")
    seen = json.loads(json.loads(found.stdout)["answers"][0]["output"])
    del seen["text_input"]
    assert seen == {"temperature": [0.5], "top_p": [0.25], "top_k": [5], "seed": [9], "stop": ["a", "b"]}


def test_several_texts_name_themselves(text_server: TritonServer) -> None:
    lines = run(text_server, "toy_generator", "one", "two").stdout.splitlines()
    assert [lines[i] for i in (0, 1, 3, 4)] == ["one", "one", "two", "two"]


def test_an_embedding_model(text_server: TritonServer) -> None:
    assert "8 numbers" in run(text_server, "toy_embedder", "one").stdout
    with pytest.raises(UsageError, match="no use for top-p, chat"):
        run(text_server, "toy_embedder", "one", "--top-p", "0.5", "--chat")


def test_errors(text_server: TritonServer) -> None:
    with pytest.raises(UsageError, match="asked to be invalid"):
        run(text_server, "toy_generator", "!invalid")
    with pytest.raises(ServerError, match="asked to break"):
        run(text_server, "toy_generator", "!break 1 a b")
    with pytest.raises(RepositoryError, match="absent"):
        run(text_server, "absent", "one")
    with pytest.raises(ServerError, match="tritonforge serve"):
        run(text_server, "toy_generator", "one", "--url", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("command", "mend"),
    [
        (["benchmark"], "python -m loadtest.bench_generation"),
        (["estimate", "--qps", "1"], "python -m loadtest.bench_generation"),
        (["demo"], "tritonforge demo-chat"),
    ],
)
def test_commands_for_encoders_refuse_a_recipe_that_generates(
    tmp_path: Any, command: list[str], mend: str
) -> None:
    recipe = tmp_path / "chatty.yaml"
    recipe.write_text("name: chatty\nmodel: nowhere\ntask: generation\n")
    result = CliRunner().invoke(app, [*command, str(recipe)])
    assert isinstance(result.exception, UsageError)
    assert "generates text" in result.exception.what
    assert result.exception.mend == f"{mend} {recipe}"


def test_the_chat_demo_refuses_an_encoder() -> None:
    result = CliRunner().invoke(app, ["demo-chat", "recipes/minilm.yaml"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.mend == "tritonforge demo recipes/minilm.yaml"
