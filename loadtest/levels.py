"""Levels of load as a command line names them."""

from __future__ import annotations

from tritonforge.errors import UsageError

_MOST = 100


def parse_levels(text: str, option: str) -> tuple[float, ...]:
    """Read ``A,B,…`` or ``START:END:STEP``, the end included.

    Args:
        text: What was given.
        option: Named in errors.

    Raises:
        UsageError: It has another form, a level is not positive, or there are more than a hundred.
    """
    mend = f"{option} 1,4,16,64, or {option} 50:300:50 (start, end, step)"
    try:
        if ":" in text:
            start, end, step = (float(part) for part in text.split(":"))
            count = int((end - start) / step + 1e-9) + 1 if step > 0 and end >= start else 0
            if count > _MOST:
                raise UsageError(f"{count} levels are too many", where=option, mend="take a larger step")
            levels = tuple(start + number * step for number in range(count))
        else:
            levels = tuple(float(part) for part in text.split(","))
    except (ValueError, OverflowError):
        levels = ()
    if not levels or not all(0 < level < float("inf") for level in levels):
        raise UsageError(f"not levels of load: {text!r}", where=option, mend=mend)
    return levels


def whole(levels: tuple[float, ...], option: str) -> tuple[int, ...]:
    """The same as whole numbers.

    Raises:
        UsageError: One is not.
    """
    if any(level % 1 for level in levels):
        raise UsageError("must be whole numbers", where=option, mend=f"{option} 1,4,16,64")
    return tuple(int(level) for level in levels)
