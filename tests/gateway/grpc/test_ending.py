"""Deadlines and cancellation reach Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import httpx
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from gateway.config import GatewayConfig
from gateway.identity import TIMEOUT_HEADER
from gateway.proto import model_service_pb2 as pb
from gateway.proto.model_service_pb2_grpc import ModelServiceStub
from tests.gateway.grpc.conftest import METADATA, OpenDoor, told
from tests.gateway.grpc.test_service import classify, embed
from tritonforge.server import TritonServer

# Not greedy: no two share an answer. All of CALLS together take a second or more.
LONG = pb.GenerationInput(
    prompt="go on", sampling=pb.Sampling(max_tokens=450, ignore_eos=True, temperature=1)
)
CALLS = 24
SOON = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Deadlines: a busy machine may not have begun at the first of them."""
EARLY = ("cancelled", "timeout")


class Ends:
    """How many generations ended, by reason, since this was made."""

    def __init__(self, metrics_url: str) -> None:
        self._url = metrics_url
        self._before = self._read()[0]

    def _read(self) -> tuple[dict[str, int], float]:
        """Ended ones by reason, and how many are at work."""
        ended, at_work = {}, 0.0
        for line in httpx.get(self._url, timeout=60).text.splitlines():
            if "_finished_requests_total{" in line:
                ended[line.split('reason="')[1].split('"')[0]] = int(float(line.split()[-1]))
            elif "_running_sequences{" in line or "_waiting_requests{" in line:
                at_work += float(line.split()[-1])
        return ended, at_work

    async def begun(self, many: int) -> None:
        """Wait until so many are at work."""
        limit = time.monotonic() + 60
        while (await asyncio.to_thread(self._read))[1] < many:
            assert time.monotonic() < limit, "they did not reach Triton"
            await asyncio.sleep(0.005)

    async def early(self) -> int:
        """How many were ended early, once none is at work any more.

        On a busy machine some, or all, may have come to their own end before; none of those counts here.
        """
        busy_at = started = time.monotonic()
        while True:
            ended, at_work = await asyncio.to_thread(self._read)
            new = {reason: n - self._before.get(reason, 0) for reason, n in ended.items()}
            early = sum(new[reason] for reason in EARLY)
            now = time.monotonic()
            if at_work:
                assert now < started + 60, "they go on"
                busy_at = now
            elif early or now > busy_at + 2:  # the generator tells of them now and then only
                return early
            await asyncio.sleep(0.02)


async def ends_early(ends: Ends, ask_and_leave: Callable[[float], Awaitable[None]]) -> None:
    """Leaving, soon, ends generations in one of a few attempts: a busy machine may be late, not always."""
    for soon in SOON:
        await ask_and_leave(soon)
        if await ends.early():
            return
    pytest.fail(f"no generation was ended early in {len(SOON)} attempts of {CALLS} calls")


@pytest.fixture
def ends(triton: TritonServer) -> Ends:
    return Ends(triton.metrics_url)


@pytest.mark.parametrize("leave", ["cancel", "vanish"])
async def test_leaving_a_stream_ends_the_generation(grpc_door: OpenDoor, ends: Ends, leave: str) -> None:
    async with grpc_door() as d:
        request = pb.StreamPredictRequest(generation=LONG)

        async def ask_and_leave(soon: float) -> None:
            channel = grpc.aio.insecure_channel(d.target, [("grpc.enable_http_proxy", 0)])
            stub = ModelServiceStub(channel)
            calls = [stub.StreamPredict(request, metadata=METADATA) for _ in range(CALLS)]
            await calls[0].read()
            if leave == "cancel":
                for call in calls:
                    call.cancel()
            await channel.close()

        await ends_early(ends, ask_and_leave)


async def test_cancelling_a_whole_answer_ends_the_generation(grpc_door: OpenDoor, ends: Ends) -> None:
    async with grpc_door() as d:

        async def ask_and_leave(soon: float) -> None:
            calls = [
                d.stub.Predict(pb.PredictRequest(generation=LONG), metadata=METADATA) for _ in range(CALLS)
            ]
            await ends.begun(CALLS // 2)
            for call in calls:
                call.cancel()

        await ends_early(ends, ask_and_leave)


ASK: dict[str, Callable[[ModelServiceStub, float], grpc.aio.Call]] = {
    "Predict": lambda stub, soon: stub.Predict(
        pb.PredictRequest(generation=LONG), metadata=METADATA, timeout=soon
    ),
    "StreamPredict": lambda stub, soon: stub.StreamPredict(
        pb.StreamPredictRequest(generation=LONG), metadata=METADATA, timeout=soon
    ),
    "BatchPredict": lambda stub, soon: stub.BatchPredict(
        pb.BatchPredictRequest(requests=[pb.PredictRequest(generation=LONG)]), metadata=METADATA, timeout=soon
    ),
}


@pytest.mark.parametrize("method", ASK)
async def test_a_deadline_ends_the_generation(grpc_door: OpenDoor, ends: Ends, method: str) -> None:
    async with grpc_door() as d:

        async def ask_and_leave(soon: float) -> None:
            calls = [ASK[method](d.stub, soon) for _ in range(CALLS)]
            _late_or_in_time(await asyncio.gather(*(call.code() for call in calls)))

        await ends_early(ends, ask_and_leave)


def _late_or_in_time(codes: list[grpc.StatusCode]) -> None:
    """On a busy machine calls come one by one, and one that has the engine to itself may be in time."""
    assert set(codes) <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}


async def test_a_millisecond_is_not_enough(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        for request in (embed("x"), classify("x")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await d.stub.Predict(request, metadata=METADATA, timeout=0.001)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_nearest_of_the_deadlines_goes_on_to_triton(
    grpc_door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []
    config = GatewayConfig.model_validate({"resilience": {"request_timeout_s": 20}})
    async with grpc_door(config) as d:
        infer = d.facade.channel.stub.ModelInfer

        def watch(request, timeout, **rest):
            seen.append((timeout, request.parameters["timeout"].int64_param / 1e6))
            return infer(request, timeout=timeout, **rest)

        monkeypatch.setattr(d.facade.channel.stub, "ModelInfer", watch)
        await d.stub.Predict(embed("1"), metadata=METADATA)
        await d.stub.Predict(embed("2"), metadata=METADATA, timeout=5)
        await d.stub.Predict(embed("3"), metadata=(*METADATA, (TIMEOUT_HEADER, "3000")), timeout=5)
        await d.stub.Predict(embed("4"), metadata=METADATA, timeout=500)
    for (deadline, parameter), expected in zip(seen, (20, 5, 3, 20), strict=True):
        assert expected - 1.9 < deadline < expected + 0.1  # on a busy machine some has passed
        assert parameter == pytest.approx(deadline, abs=1e-3)


async def test_the_gateways_own_deadline_is_told_with_details(grpc_door: OpenDoor, ends: Ends) -> None:
    reasons: set[str] = set()
    async with grpc_door() as d:

        async def ask_and_leave(soon: float) -> None:
            request = pb.PredictRequest(generation=LONG)
            metadata = (*METADATA, (TIMEOUT_HEADER, str(int(soon * 1000))))
            calls = [d.stub.Predict(request, metadata=metadata) for _ in range(CALLS)]
            codes = await asyncio.gather(*(call.code() for call in calls))
            _late_or_in_time(codes)
            for call, code in zip(calls, codes, strict=True):
                if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                    status = await rpc_status.aio.from_call(call)
                    assert status is not None
                    reasons.add(told(status, ErrorInfo).reason)

        await ends_early(ends, ask_and_leave)
    assert reasons == {"deadline_exceeded"}


async def test_a_stop_lets_a_stream_finish(grpc_door: OpenDoor) -> None:
    async with grpc_door() as d:
        short = pb.GenerationInput(prompt="go on", sampling=pb.Sampling(max_tokens=60, ignore_eos=True))
        call = d.stub.StreamPredict(pb.StreamPredictRequest(generation=short), metadata=METADATA)
        part = await call.read()
        stopping = asyncio.create_task(d.server.stop(5))
        while not part.HasField("usage"):
            part = await call.read()
        await stopping
    assert part.usage.output_tokens == 60
