"""What goes wrong with generation, on all four clients, against a toy model that misbehaves on demand."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clients import (
    Client,
    ClientError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestTimeoutError,
    RetryPolicy,
    ServerFaultError,
    UnavailableError,
)
from clients.errors import stream_status
from tests.clients.long_prompt import SLOW, WORDS
from tritonforge.server import TritonServer

QUICK = RetryPolicy(attempts=3, first_delay=0.01)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_wrong_request(generate: Any, stream: bool) -> None:
    if stream:
        found, error, _ = generate.pieces(lambda client: client.stream("!invalid"))
        assert found == [] and isinstance(error, InvalidRequestError)
    else:
        with pytest.raises(InvalidRequestError, match="asked to be invalid") as caught:
            generate(lambda client: client.generate("!invalid"))
        assert caught.value.status in ("INVALID_ARGUMENT", "400")


@pytest.mark.parametrize(
    ("message", "before", "after"),
    [
        ("the prompt has 600 tokens, of 512 at most", "INVALID_ARGUMENT", "UNKNOWN"),
        (
            "128 requests wait, as many as queue.max_size allows; try again later",
            "UNAVAILABLE",
            "UNAVAILABLE",
        ),
        ("the engine failed: it timed out", "INTERNAL", "INTERNAL"),
        ("Request for unknown model: 'a' is not found", "NOT_FOUND", "NOT_FOUND"),
        ("Request timeout expired", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
    ],
)
def test_the_kind_of_an_error_is_read_from_its_text(message: str, before: str, after: str) -> None:
    assert [stream_status(message, begun=begun) for begun in (False, True)] == [before, after]


def test_the_server_outlives_many_errors(server: TritonServer) -> None:
    """Where the status is asked for (``triton_grpc_error``), tritonserver 2.51 aborts after a few hundred."""

    def ask(_: int) -> None:
        with Client(server.grpc_url, "toy_generator") as client:
            for _ in range(500):
                with pytest.raises(InvalidRequestError, match="asked to be invalid"):
                    client.generate("!invalid")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unavailable_is_retried_before_the_first_piece(settled: Any, generate: Any, stream: bool) -> None:
    before = settled()
    prompt = f"!unavailable 2 {uuid.uuid4().hex}"
    if stream:
        found, error, _ = generate.pieces(lambda client: client.stream(prompt), retry=QUICK)
        assert error is None and len(found) == 2
    else:
        assert generate(lambda client: client.generate(prompt), retry=QUICK).text.startswith("2 ")
    after = settled()
    assert (after["failed"] - before["failed"], after["finished"] - before["finished"]) == (2, 1)


def test_retries_are_bounded(settled: Any, generate: Any) -> None:
    before = settled()["failed"]
    prompt = f"!unavailable 99 {uuid.uuid4().hex}"
    with pytest.raises(UnavailableError, match="asked to be unavailable") as caught:
        generate(lambda client: client.generate(prompt), retry=QUICK)
    assert caught.value.status == "UNAVAILABLE"
    assert settled()["failed"] - before == QUICK.attempts


def test_unavailable_after_the_first_piece_is_not_retried(settled: Any, generate: Any) -> None:
    before = settled()["failed"]
    prompt = f"!late {uuid.uuid4().hex} one two three"
    found, error, answer = generate.pieces(lambda client: client.stream(prompt), retry=QUICK)
    assert [piece.text for piece in found] == ["one"]
    assert isinstance(error, UnavailableError)
    assert answer.text == "one"
    assert settled()["failed"] - before == 1


def test_a_failure_on_the_way_keeps_what_came(generate: Any) -> None:
    found, error, answer = generate.pieces(lambda client: client.stream("!break 3 one two three four"))
    assert "".join(piece.text for piece in found) == answer.text == "one two"
    assert isinstance(error, ServerFaultError)
    assert "asked to break" in str(error)


@pytest.mark.parametrize("whole", [True, False], ids=["generate", "stream"])
def test_timeout_of_the_whole_answer(settled: Any, generate: Any, patiently: Any, whole: bool) -> None:
    def attempt(seconds: float) -> bool:
        before, found = settled(), []
        if whole:
            with pytest.raises(RequestTimeoutError, match=f"{seconds} s"):
                generate(lambda client: client.generate(SLOW, timeout=seconds), retry=QUICK)
        else:
            found, error, answer = generate.pieces(lambda client: client.stream(SLOW), timeout=seconds)
            assert isinstance(error, RequestTimeoutError) and "max_tokens" in error.hint
            assert len(found) < WORDS
            assert answer.text == "".join(piece.text for piece in found)
        return settled() == {**before, "cancelled": before["cancelled"] + 1} and (whole or bool(found))

    patiently(attempt)


def test_timeout_of_a_request_may_be_longer_than_the_clients(generate: Any) -> None:
    answer = generate(lambda client: client.generate("!slow 0.2 a b c", timeout=60), timeout=0.3)
    assert answer.text == "a b c"


def test_timeout_of_the_first_piece(generate: Any, patiently: Any) -> None:
    found, error, _ = generate.pieces(lambda client: client.stream("!silent 4 a b", first_timeout=0.3))
    assert found == []
    assert isinstance(error, RequestTimeoutError)
    assert "first piece" in str(error)

    def attempt(seconds: float) -> bool:
        prompt = f"!pause {1.2 * seconds} a b c"
        found, error, _ = generate.pieces(lambda client: client.stream(prompt, first_timeout=seconds))
        return (len(found), error) == (3, None)

    patiently(attempt)


def test_nobody_listens(nowhere: Any) -> None:
    with pytest.raises(UnavailableError):
        nowhere(lambda client: client.generate("a"), retry=QUICK)


def test_unknown_model(generate: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="absent"):
        generate(lambda client: client.generate("a"), model="absent")


def test_a_model_that_does_not_generate(generate: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"no output 'text_output'.*\n.*embed\(\)"):
        generate(lambda client: client.generate("a"), model="toy_embedder")


def test_a_model_that_does_not_embed(generate: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"no output 'embedding'.*\n.*chat\(\) on generation"):
        generate(lambda client: client.embed(["a"]))


def test_a_parameter_that_the_model_lacks(generate: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"takes no 'adapter'\n.*max_tokens"):
        generate(lambda client: client.generate("a", adapter="legal"))


@pytest.mark.parametrize(
    ("error", "sampling", "message"),
    [
        (TypeError, {"temprature": 1}, r"no parameter 'temprature'; there are max_tokens, .*temperature"),
        (TypeError, {"max_tokens": 1.5}, "max_tokens must be a whole number, not 1.5"),
        (TypeError, {"max_tokens": True}, "max_tokens must be a whole number"),
        (TypeError, {"top_p": "0.5"}, "top_p must be a number, not '0.5'"),
        (TypeError, {"ignore_eos": 1}, "ignore_eos must be True or False"),
        (TypeError, {"stop": [b"x"]}, r"stop\[0\] must be a str"),
        (ValueError, {"max_tokens": 2**31}, "max_tokens must be from .* to 2147483647"),
        (ValueError, {"seed": -1}, "seed must be from 0"),
        (ValueError, {"temperature": float("nan")}, "temperature must be"),
        (ValueError, {"timeout": 0}, "timeout must be more than 0"),
    ],
)
def test_wrong_parameters_are_named_before_anything_is_sent(
    nowhere: Any, error: type[Exception], sampling: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        nowhere(lambda c: c.generate("a", **sampling))


@pytest.mark.parametrize(
    ("error", "messages", "message"),
    [
        (TypeError, "hello", "a list of messages, not one str"),
        (TypeError, {"role": "user", "content": "x"}, "a list of messages, not one dict"),
        (TypeError, [{"role": "user"}], r"messages\[0\] must be"),
        (TypeError, ["hello"], r"messages\[0\] must be"),
        (ValueError, [], "messages is empty"),
        (ValueError, [{"role": "user", "content": "\ud83d"}], "cannot be written as UTF-8"),
    ],
)
def test_wrong_messages(nowhere: Any, error: type[Exception], messages: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        nowhere(lambda client: client.chat(messages))


def test_closed_client(generate: Any) -> None:
    client = generate(lambda client: client)
    with pytest.raises(ClientError, match="closed"):
        generate(lambda _: client.generate("a"))
