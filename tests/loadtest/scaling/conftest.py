from __future__ import annotations

import pytest

from loadtest.results import Machine, Setting
from loadtest.scaling.profile import BatchTime, LengthTime, Level, Profile, Stage


@pytest.fixture
def profile() -> Profile:
    """Figures of a server as they might have been measured."""
    engine = tuple(
        BatchTime(batch=batch, seconds=0.004 + 0.002 * batch, count=10) for batch in (1, 2, 8, 32, 64)
    )
    setting = Setting(
        tool="perf_analyzer",
        tool_version="2.60.0",
        target="triton-grpc",
        url="localhost:8001",
        model="m",
        task="embedding",
        length_mix="8:0.5,64:0.5",
        corpus="none",
        machine=Machine(cpu="a processor", cores=2, memory_bytes=1 << 30),
        command="none",
    )
    return Profile(
        setting=setting,
        stages=(
            Stage(
                model="m_tokenizer",
                instances=1,
                max_batch=64,
                times=(BatchTime(batch=1, seconds=0.001, count=9),),
            ),
            Stage(model="m_engine", instances=1, max_batch=64, times=engine),
        ),
        lengths=(
            LengthTime(tokens=8, weight=0.5, seconds=0.004),
            LengthTime(tokens=64, weight=0.5, seconds=0.008),
        ),
        overhead_s=0.002,
        levels=(
            Level(in_flight=1, rate=100, mean_ms=9, p50_ms=9, p99_ms=12, cores=0.9),
            Level(in_flight=64, rate=400, mean_ms=150, p50_ms=150, p99_ms=200, cores=1.9),
        ),
        start_s=6.0,
        repository_bytes=200_000_000,
        memory_bytes=400_000_000,
        gateway_cpu_s=0.002,
    )
