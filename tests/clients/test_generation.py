"""Generation by all four clients against a real tritonserver, whose toy model can misbehave on demand."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from clients import (
    AsyncClient,
    Client,
    ClientError,
    Completion,
    InvalidRequestError,
    ModelNotFoundError,
    Piece,
    RequestTimeoutError,
    RetryPolicy,
    ServerFaultError,
    UnavailableError,
)
from tritonforge.server import TritonServer

QUICK = RetryPolicy(attempts=3, first_delay=0.01)
LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz")
SLOW = f"!slow 0.1 {LETTERS}"  # 2.6 s


class Driver:
    """Runs the same calls on a blocking or an asyncio client."""

    def __init__(self, server: TritonServer, kind: type[Client] | type[AsyncClient], protocol: Any) -> None:
        self.url = server.grpc_url if protocol == "grpc" else server.http_address
        self.kind = kind
        self.protocol = protocol

    def __call__(self, action: Callable[[Any], Any], **settings: Any) -> Any:
        settings = {"model": "toy_generator", "url": self.url, "protocol": self.protocol, **settings}
        if self.kind is Client:
            with Client(**settings) as client:
                return action(client)

        async def run() -> Any:
            async with AsyncClient(**settings) as client:
                answer = action(client)
                return await answer if inspect.isawaitable(answer) else answer

        return asyncio.run(run())

    def pieces(self, open_stream: Callable[[Any], Any], take: int | None = None, **settings: Any) -> Any:
        """Read a stream, ``take`` pieces at most, and return the pieces, the error and the stream."""

        def read(client: Client) -> Any:
            found: list[Piece] = []
            stream = open_stream(client)
            try:
                for piece in stream:
                    found.append(piece)
                    if len(found) == take:
                        break
            except ClientError as error:
                return found, error, stream.completion
            stream.close()
            return found, None, stream.completion

        async def read_async(client: AsyncClient) -> Any:
            found: list[Piece] = []
            stream = open_stream(client)
            try:
                async for piece in stream:
                    found.append(piece)
                    if len(found) == take:
                        break
            except ClientError as error:
                return found, error, stream.completion
            await stream.aclose()
            return found, None, stream.completion

        return self(read if self.kind is Client else read_async, **settings)


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "asyncio"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def drive(server: TritonServer, kind: Any, protocol: str) -> Driver:
    return Driver(server, kind, protocol)


def counts(server: TritonServer) -> dict[str, int]:
    """How the toy's requests ended, by what it says itself."""
    with Client(server.grpc_url, "toy_generator") as client:
        found = json.loads(client.generate("!counts").text)
    return {name: found.get(name, 0) for name in ("active", "finished", "cancelled", "failed")}


def settled(server: TritonServer) -> dict[str, int]:
    """The counts once no request goes on; what was not cancelled takes its 2.6 s to the end."""
    deadline = time.monotonic() + 20
    while (found := counts(server))["active"] and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


class OneCancelled:
    """That exactly one request more was cancelled, and none ran to its end."""

    def __init__(self, server: TritonServer) -> None:
        self.server = server

    def __enter__(self) -> None:
        self.before = settled(self.server)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            after = settled(self.server)
            assert after == {**self.before, "cancelled": self.before["cancelled"] + 1}


# Whole answers


def test_generate(drive: Driver) -> None:
    answer: Completion = drive(lambda client: client.generate("The Sätze of 漢字 🙂"))
    assert answer.text == "The Sätze of 漢字 🙂"
    assert answer.token_ids == (3, 6, 3, 3, 2)
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 5, 5)
    assert answer.log_probs == ()
    assert answer.latency > 0


def test_max_tokens(drive: Driver) -> None:
    answer = drive(lambda client: client.generate("one two three", max_tokens=2))
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("one two", "length", 2)


def test_chat(drive: Driver) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say é 🙂"}]
    assert drive(lambda client: client.chat(messages)).text == "Say é 🙂"
    messages[-1]["content"] = "!inputs"
    seen = json.loads(drive(lambda client: client.chat(messages)).text)
    assert json.loads(seen["messages"][0]) == messages
    assert "text_input" not in seen


def test_every_parameter_arrives(drive: Driver) -> None:
    sampling: dict[str, Any] = {
        "max_tokens": 7,
        "min_tokens": 2,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 40,
        "seed": 2**64 - 1,
        "stop": ["\n\n", "é"],
        "repetition_penalty": 1.25,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.25,
        "ignore_eos": True,
        "return_log_probs": True,
        "json_schema": {"type": "object"},
    }
    seen = json.loads(drive(lambda client: client.generate("!inputs", **sampling)).text)
    assert json.loads(seen.pop("json_schema")[0]) == {"type": "object"}
    del sampling["json_schema"]
    del seen["text_input"]
    seen.pop("stream", None)  # as the protocol needs
    assert seen.pop("stop") == sampling.pop("stop")
    assert seen == {name: [value] for name, value in sampling.items()}


def test_stop_may_be_one_text_and_none_means_default(drive: Driver) -> None:
    seen = json.loads(drive(lambda c: c.generate("!inputs", stop="END", seed=None, top_k=None)).text)
    assert seen["stop"] == ["END"]
    assert not {"seed", "top_k"} & set(seen)


@pytest.mark.parametrize("text", ["a\0b", "data: x\n\ndata: y", '"\\', "x" * 300_000, "\u2028\r"])
def test_odd_texts(drive: Driver, text: str) -> None:
    assert drive(lambda client: client.generate(text)).text == text


def test_log_probs(drive: Driver) -> None:
    answer = drive(lambda client: client.generate("one three", return_log_probs=True))
    assert answer.log_probs == (-3 / 8, -6 / 8)
    assert drive(lambda client: client.generate("one", return_log_probs=True)).log_probs == (-3 / 8,)


# Streams


def test_stream(drive: Driver) -> None:
    found, error, answer = drive.pieces(lambda c: c.stream("one två three", return_log_probs=True))
    assert error is None
    assert [piece.text for piece in found] == ["one", " två", " three"]
    assert [piece.token_ids for piece in found] == [(3,), (4,), (6,)]
    assert [piece.log_probs for piece in found] == [(-3 / 8,), (-4 / 8,), (-6 / 8,)]
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("one två three", "stop", 3)
    assert answer.token_ids == (3, 4, 6)
    assert 0 < answer.ttft <= answer.latency


def test_pieces_come_while_the_answer_goes_on(drive: Driver) -> None:
    _, _, answer = drive.pieces(lambda client: client.stream("!slow 0.1 a b c d"))
    assert answer.ttft < answer.latency - 0.15


def test_chat_stream(drive: Driver) -> None:
    messages = [{"role": "user", "content": "one two"}]
    found, _, answer = drive.pieces(lambda client: client.chat_stream(messages, max_tokens=1))
    assert [piece.text for piece in found] == ["one"]
    assert answer.finish_reason == "length"


def test_many_threads_stream_from_one_client(server: TritonServer, protocol: Any) -> None:
    def read(client: Client, number: int) -> str:
        prompt = f"!slow 0.02 {number} " + " ".join(LETTERS.split()[:number])
        return "".join(piece.text for piece in client.stream(prompt))

    def read_all(client: Client) -> list[str]:
        with ThreadPoolExecutor(20) as threads:
            return list(threads.map(lambda number: read(client, number), range(1, 21)))

    expected = [f"{number} " + " ".join(LETTERS.split()[:number]) for number in range(1, 21)]
    assert Driver(server, Client, protocol)(read_all) == expected


def test_one_thread_may_hold_many_streams(server: TritonServer, protocol: Any) -> None:
    """More than ``concurrency``, which would be a deadlock if they counted."""

    def zipped(client: Client) -> list[tuple[str, ...]]:
        streams = [client.stream(f"a{number} b{number}") for number in range(5)]
        return [tuple(piece.text for piece in row) for row in zip(*streams, strict=True)]

    first, second = Driver(server, Client, protocol)(zipped, concurrency=2)
    assert first == ("a0", "a1", "a2", "a3", "a4")
    assert second == (" b0", " b1", " b2", " b3", " b4")


def test_many_tasks_stream_from_one_client(server: TritonServer, protocol: Any) -> None:
    async def read(client: AsyncClient, number: int) -> str:
        return "".join([piece.text async for piece in client.stream(f"!slow 0.02 {number} a b c")])

    def read_all(client: AsyncClient) -> Any:
        return asyncio.gather(*(read(client, number) for number in range(20)))

    answers = Driver(server, AsyncClient, protocol)(read_all)
    assert answers == [f"{number} a b c" for number in range(20)]


# Cancellation


def test_close_cancels(server: TritonServer, drive: Driver) -> None:
    with OneCancelled(server):
        found, error, answer = drive.pieces(lambda client: client.stream(SLOW), take=3)
    assert (len(found), error) == (3, None)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == ("a b c", "cancelled", 3)
    assert answer.prompt_tokens is None


def test_leaving_the_loop_cancels(server: TritonServer, protocol: Any) -> None:
    def leave(client: Client) -> None:
        for _ in client.stream(SLOW):
            break
        assert settled(server)["finished"] == before

    before = settled(server)["finished"]
    with OneCancelled(server):
        Driver(server, Client, protocol)(leave)


def test_leaving_the_async_loop_cancels(server: TritonServer, protocol: Any) -> None:
    async def leave(client: AsyncClient) -> None:
        async for _ in client.stream(SLOW):
            break
        # While the client is open still, and only by what the loop let go of.
        after = await asyncio.to_thread(settled, server)
        assert after["finished"] == before

    before = settled(server)["finished"]
    with OneCancelled(server):
        Driver(server, AsyncClient, protocol)(leave)


def test_an_exception_in_the_block_cancels(server: TritonServer, protocol: Any) -> None:
    def fail(client: Client) -> None:
        with client.stream(SLOW) as stream:
            next(stream)
            raise ZeroDivisionError

    with OneCancelled(server), pytest.raises(ZeroDivisionError):
        Driver(server, Client, protocol)(fail)


@pytest.mark.parametrize("whole", [True, False], ids=["generate", "stream"])
def test_cancelling_the_task_cancels(server: TritonServer, protocol: Any, whole: bool) -> None:
    async def read(client: AsyncClient) -> None:
        if whole:
            await client.generate(SLOW)
        async for _ in client.stream(SLOW):
            pass

    async def cancel(client: AsyncClient) -> None:
        task = asyncio.create_task(read(client))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with OneCancelled(server):
        Driver(server, AsyncClient, protocol)(cancel)


def test_close_from_another_thread_ends_the_loop(server: TritonServer, protocol: Any) -> None:
    def read(client: Client) -> list[Piece]:
        stream = client.stream(SLOW)
        threading.Timer(0.5, stream.close).start()
        return list(stream)

    with OneCancelled(server):
        assert 0 < len(Driver(server, Client, protocol)(read)) < 26


def test_closing_the_client_ends_its_streams(server: TritonServer, protocol: Any) -> None:
    driver = Driver(server, Client, protocol)

    def read(client: Client) -> None:
        threading.Timer(0.5, client.close).start()
        with pytest.raises(ClientError):
            list(client.stream(SLOW))

    with OneCancelled(server):
        driver(read)


# Errors


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_wrong_request(drive: Driver, stream: bool) -> None:
    if stream:
        found, error, _ = drive.pieces(lambda client: client.stream("!invalid"))
        assert found == [] and isinstance(error, InvalidRequestError)
    else:
        with pytest.raises(InvalidRequestError, match="asked to be invalid") as caught:
            drive(lambda client: client.generate("!invalid"))
        assert caught.value.status in ("INVALID_ARGUMENT", "400")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_unavailable_is_retried_before_the_first_piece(
    server: TritonServer, drive: Driver, stream: bool
) -> None:
    before = settled(server)
    prompt = f"!unavailable 2 {uuid.uuid4().hex}"
    if stream:
        found, error, _ = drive.pieces(lambda client: client.stream(prompt), retry=QUICK)
        assert error is None and len(found) == 2
    else:
        assert drive(lambda client: client.generate(prompt), retry=QUICK).text.startswith("2 ")
    after = settled(server)
    assert (after["failed"] - before["failed"], after["finished"] - before["finished"]) == (2, 1)


def test_retries_are_bounded(server: TritonServer, drive: Driver) -> None:
    before = settled(server)["failed"]
    prompt = f"!unavailable 99 {uuid.uuid4().hex}"
    with pytest.raises(UnavailableError, match="asked to be unavailable") as caught:
        drive(lambda client: client.generate(prompt), retry=QUICK)
    assert caught.value.status == "UNAVAILABLE"
    assert settled(server)["failed"] - before == QUICK.attempts


def test_unavailable_after_the_first_piece_is_not_retried(server: TritonServer, drive: Driver) -> None:
    before = settled(server)["failed"]
    prompt = f"!late {uuid.uuid4().hex} one two three"
    found, error, answer = drive.pieces(lambda client: client.stream(prompt), retry=QUICK)
    assert [piece.text for piece in found] == ["one"]
    assert isinstance(error, UnavailableError)
    assert answer.text == "one"
    assert settled(server)["failed"] - before == 1


def test_a_failure_on_the_way_keeps_what_came(drive: Driver) -> None:
    found, error, answer = drive.pieces(lambda client: client.stream("!break 3 one two three four"))
    assert "".join(piece.text for piece in found) == answer.text == "one two"
    assert isinstance(error, ServerFaultError)
    assert "asked to break" in str(error)


@pytest.mark.parametrize("whole", [True, False], ids=["generate", "stream"])
def test_timeout_of_the_whole_answer(server: TritonServer, drive: Driver, whole: bool) -> None:
    with OneCancelled(server):
        if whole:
            with pytest.raises(RequestTimeoutError, match=r"0\.5 s"):
                drive(lambda client: client.generate(SLOW, timeout=0.5), retry=QUICK)
        else:
            found, error, answer = drive.pieces(lambda client: client.stream(SLOW), timeout=0.5)
            assert isinstance(error, RequestTimeoutError) and "max_tokens" in error.hint
            assert 0 < len(found) < 26
            assert answer.text == "".join(piece.text for piece in found)


def test_timeout_of_a_request_may_be_longer_than_the_clients(drive: Driver) -> None:
    answer = drive(lambda client: client.generate("!slow 0.2 a b c", timeout=20), timeout=0.3)
    assert answer.text == "a b c"


def test_timeout_of_the_first_piece(drive: Driver) -> None:
    found, error, _ = drive.pieces(lambda client: client.stream("!silent 1 a b", first_timeout=0.3))
    assert found == []
    assert isinstance(error, RequestTimeoutError)
    assert "first piece" in str(error)
    found, error, _ = drive.pieces(lambda client: client.stream("!slow 0.2 a b c", first_timeout=0.5))
    assert (len(found), error) == (3, None)


def test_nobody_listens(kind: Any, protocol: str) -> None:
    class Nowhere:
        grpc_url = http_address = "127.0.0.1:1"  # privileged and unused

    drive = Driver(Nowhere(), kind, protocol)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError):
        drive(lambda client: client.generate("a"), retry=QUICK)


def test_unknown_model(drive: Driver) -> None:
    with pytest.raises(ModelNotFoundError, match="absent"):
        drive(lambda client: client.generate("a"), model="absent")


def test_a_model_that_does_not_generate(drive: Driver) -> None:
    with pytest.raises(InvalidRequestError, match=r"no output 'text_output'.*\n.*embed\(\)"):
        drive(lambda client: client.generate("a"), model="toy_embedder")


def test_a_model_that_does_not_embed(drive: Driver) -> None:
    with pytest.raises(InvalidRequestError, match=r"no output 'embedding'.*\n.*chat\(\) on generation"):
        drive(lambda client: client.embed(["a"]))


def test_a_parameter_that_the_model_lacks(server: TritonServer, drive: Driver) -> None:
    with pytest.raises(InvalidRequestError, match=r"takes no 'adapter'\n.*max_tokens"):
        drive(lambda client: client.generate("a", adapter="legal"))


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
    kind: Any, error: type[Exception], sampling: Any, message: str
) -> None:
    class Nowhere:
        grpc_url = http_address = "127.0.0.1:1"

    with pytest.raises(error, match=message):
        Driver(Nowhere(), kind, "grpc")(lambda c: c.generate("a", **sampling))  # type: ignore[arg-type]


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
def test_wrong_messages(kind: Any, error: type[Exception], messages: Any, message: str) -> None:
    class Nowhere:
        grpc_url = http_address = "127.0.0.1:1"

    with pytest.raises(error, match=message):
        Driver(Nowhere(), kind, "grpc")(lambda client: client.chat(messages))  # type: ignore[arg-type]


def test_closed_client(drive: Driver) -> None:
    client = drive(lambda client: client)
    with pytest.raises(ClientError, match="closed"):
        drive(lambda _: client.generate("a"))
