from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from tritonforge.server.logs import LogPump, decisive_lines

# Lines of tritonserver 2.51.0.
HARMLESS = 'E1124 21:59:12.894942 8535 ensemble_scheduler.cc:1468] "unable to create stream for front: CUDA"'
BIND = (
    "E1124 21:52:36.755150 5527 main.cc:245] \"failed to start GRPC service: Socket '127.0.0.1:1' in use \""
)
LOAD = (
    "E1124 21:59:12.894655 8535 model_lifecycle.cc:642] \"failed to load 'bad' version 1: Internal: "
    "ModuleNotFoundError: No module named 'x'\\n\\nAt:\\n  /r/bad/1/model.py(1): <module>\\n  <f>(2)\\n\""
)


def test_a_failed_load_is_decisive_and_carries_its_frame() -> None:
    assert decisive_lines([HARMLESS, BIND, LOAD, "error: creating server"]) == [
        "failed to load 'bad' version 1: Internal: ModuleNotFoundError: No module named 'x' "
        "(at /r/bad/1/model.py(1): <module>)"
    ]


def test_without_a_failed_load_the_errors_are() -> None:
    assert decisive_lines(["I1124 fine", HARMLESS, BIND]) == [
        "failed to start GRPC service: Socket '127.0.0.1:1' in use "
    ]


def test_without_errors_the_last_lines_are() -> None:
    assert decisive_lines(["one", "two", "three"], limit=2) == ["two", "three"]


class _ClosedSink(io.RawIOBase):
    def write(self, data: object) -> int:
        raise BrokenPipeError


def test_every_byte_passes_unchanged_and_the_tail_is_kept() -> None:
    reader, writer = os.pipe()
    sink = io.BytesIO()
    pump = LogPump(os.fdopen(reader, "rb"), sink, keep=2)
    data = b"first\nbytes \xff that are no UTF-8\nlast without end"
    with os.fdopen(writer, "wb") as out:
        out.write(data)
    pump.join(60)
    assert sink.getvalue() == data
    assert pump.tail() == ["bytes \ufffd that are no UTF-8", "last without end"]


def test_a_sink_that_went_away_does_not_block_the_writer() -> None:
    reader, writer = os.pipe()
    pump = LogPump(os.fdopen(reader, "rb"), cast(BinaryIO, _ClosedSink()))
    with os.fdopen(writer, "wb") as out:
        out.write(b"x" * 64 * 1024 + b"\n" + b"y\n" * 100_000)  # far more than a pipe holds
    pump.join(60)
    assert pump.tail()[-1] == "y"
