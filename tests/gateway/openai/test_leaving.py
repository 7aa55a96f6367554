"""Who leaves frees the place of the request on the server."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import httpx
import openai
import pytest

from tritonforge.server import TritonServer

LINE = re.compile(r'reason="(\w+)".* (\S+)$')
LONG: dict[str, Any] = {
    "model": "tinygen",
    "messages": [{"role": "user", "content": "Go on."}],
    "temperature": 1,
    "max_tokens": 400,
    "extra_body": {"ignore_eos": True},
}


class Ended:
    """How many requests of the generator have ended since now, by their reason."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = self._settled()

    def settled(self, at_least: int, within_s: float = 60) -> Counter[str]:
        """Once so many have ended."""
        limit = time.monotonic() + within_s
        while (found := self._settled() - self._before).total() < at_least and time.monotonic() < limit:
            time.sleep(0.1)
        return found

    def _settled(self) -> Counter[str]:
        """The model hands its counts over now and then: ask until two answers agree."""
        found, before = self._read(), None
        while found != before:
            time.sleep(0.3)
            found, before = self._read(), found
        return found

    def _read(self) -> Counter[str]:
        lines = httpx.get(self._url, timeout=60).text.splitlines()
        ended = [LINE.search(line) for line in lines if "finished_requests_total{" in line]
        return Counter({found[1]: int(float(found[2])) for found in ended if found})


@pytest.fixture
def ended(triton: TritonServer) -> Ended:
    return Ended(triton.metrics_url)


def left_in_mid_stream(client: openai.OpenAI, triton: TritonServer) -> Counter[str]:
    """How four end that are left after their first part: on a busy machine some may be done by then."""
    for _ in range(8):
        ended = Ended(triton.metrics_url)
        with client.chat.completions.create(**LONG, n=4, stream=True) as stream:
            next(stream)
        if set(found := ended.settled(at_least=4)) == {"cancelled"}:
            break
    return found


def test_a_stream_that_is_left(client: openai.OpenAI, triton: TritonServer) -> None:
    assert left_in_mid_stream(client, triton) == {"cancelled": 4}


def test_a_whole_answer_that_is_not_waited_for(client: openai.OpenAI, ended: Ended) -> None:
    for patience in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):  # a busy machine may not have begun so soon
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=patience).chat.completions.create(**LONG, n=8)
        if (found := ended.settled(at_least=1, within_s=5))["cancelled"]:
            break
    assert found["cancelled"] > 0  # not each of them, where the machine is busy
