"""How requests come: rates by time, made up or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.scaling.profile import Floats
from tritonforge.errors import UsageError

RECORDED = Path(__file__).parent / "traces"

_HOUR = 3600
_FORMS = "constant, step, ramp, day, a name of a recorded trace, or a file"


@dataclass(frozen=True)
class Trace:
    """Requests a second, each second.

    Attributes:
        name: What it is called.
        rates: Of each second, float64 [seconds].
        recorded: The rates are counts of real requests, and not means of a Poisson process.
    """

    name: str
    rates: Floats
    recorded: bool = False

    @property
    def seconds(self) -> int:
        """How long it is."""
        return int(self.rates.size)

    def scaled(self, peak: float) -> Trace:
        """The same shape, its busiest minute at ``peak`` requests a second.

        Of a recorded trace the rates stay as rough from second to second as they were seen, which is far
        rougher than the sum of so many more callers would be.
        """
        window = min(60, self.seconds)
        busiest = float(np.convolve(self.rates, np.ones(window) / window, "valid").max())
        return Trace(self.name, self.rates * (peak / busiest), self.recorded)

    def arrivals(self, rng: np.random.Generator) -> Floats:
        """Moments of single requests, in order: a Poisson process of these rates, or as many as recorded."""
        whole = np.floor(self.rates) + (rng.random(self.seconds) < self.rates % 1)
        counts = whole if self.recorded else rng.poisson(self.rates)
        starts = np.repeat(np.arange(self.seconds), counts.astype(np.int64))
        return np.asarray(np.sort(starts + rng.random(starts.size)))


def find_trace(form: str, seconds: int = _HOUR) -> Trace:
    """Make or read a trace; scale it afterwards.

    Args:
        form: ``constant``; ``step`` (a fifth, five times that from the first quarter to the third, and a
            fifth again); ``ramp`` (from a tenth to all); ``day`` (24 hours, low at night, two peaks);
            the name of a recorded trace; or a file with one number of requests a second on each line.
        seconds: How long; a day has 86400 whatever is said, a recorded trace its own.

    Raises:
        UsageError: There is no such trace, or its file holds something else.
    """
    if seconds < 1:
        raise UsageError(f"must be at least 1, not {seconds}", where="--seconds")
    time = np.arange(seconds) / seconds
    if form == "constant":
        return Trace(form, np.ones(seconds))
    if form == "step":
        return Trace(form, np.where((time >= 0.25) & (time < 0.75), 1.0, 0.2))
    if form == "ramp":
        return Trace(form, 0.1 + 0.9 * time)
    if form == "day":
        return Trace(form, _day())
    file = RECORDED / f"{form}.csv"
    return _read(file if file.is_file() else Path(form))


def _day() -> Floats:
    """Office hours: low from midnight to six, peaks at eleven and at fifteen o'clock."""
    hours = np.arange(24 * _HOUR) / _HOUR
    peaks = np.exp(-(((hours - 11) / 2.5) ** 2)) + 0.9 * np.exp(-(((hours - 15.5) / 3) ** 2))
    return np.asarray(0.08 + peaks)


def _read(file: Path) -> Trace:
    mend = f"give one of {_FORMS}: a line `requests`, then one number a line; # begins a comment"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(path.stem for path in RECORDED.glob("*.csv")))
        raise UsageError(
            f"is no trace: {error}", where=str(file), mend=f"{mend}. Recorded: {known}"
        ) from error
    values = [line for line in lines if line.strip() and not line.startswith("#") and line != "requests"]
    try:
        rates = np.array([float(value) for value in values])
    except ValueError as error:
        raise UsageError(f"is no trace: {error}", where=str(file), mend=mend) from error
    if not rates.size or not np.isfinite(rates).all() or rates.min() < 0 or not rates.any():
        raise UsageError("holds no requests, or negative ones", where=str(file), mend=mend)
    return Trace(file.stem, rates, recorded=True)
