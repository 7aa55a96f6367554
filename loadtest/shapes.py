"""How many users, and when: stages, one after another.

Each stage begins with a warm-up, in which its users start and which is not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tritonforge.errors import UsageError

ShapeName = Literal["steps", "spike", "soak"]
SHAPES: tuple[str, ...] = get_args(ShapeName)


@dataclass(frozen=True)
class Stage:
    """So many users for a while.

    Attributes:
        users: How many.
        warm_up_s: Seconds that are not measured.
        seconds: Seconds that are.
    """

    users: int
    warm_up_s: float
    seconds: float

    @property
    def whole_s(self) -> float:
        """Seconds from its first user to its end."""
        return self.warm_up_s + self.seconds


def stages_of(shape: str, users: Sequence[int], seconds: float, warm_up_s: float) -> tuple[Stage, ...]:
    """The stages of a shape.

    Args:
        shape: ``steps``: each number of users in turn. ``spike``: few users, many, and few again, to see
            what the many leave behind. ``soak``: one number of users, for long.
        users: For ``spike`` the few and the many; for ``soak`` one number.
        seconds: To measure in each stage.
        warm_up_s: Before that.

    Raises:
        UsageError: Shape and numbers do not fit.
    """
    if shape not in SHAPES:
        raise UsageError(f"there is no shape {shape!r}", where="--shape", mend=f"one of {', '.join(SHAPES)}")
    if not users or min(users) < 1:
        raise UsageError("users must be positive whole numbers", where="--users", mend="--users 1,4,16")
    wanted = {"spike": 2, "soak": 1}.get(shape, len(users))
    if len(users) != wanted:
        raise UsageError(
            f"{shape} takes {wanted} number{'s' if wanted > 1 else ''} of users, not {len(users)}",
            where="--users",
            mend="--shape spike --users 4,64, or --shape soak --users 16",
        )
    order = (*users, users[0]) if shape == "spike" else users
    return tuple(Stage(number, warm_up_s, seconds) for number in order)


def stage_after(stages: Sequence[Stage], current: int, elapsed: float) -> int | None:
    """Which stage it is now.

    Args:
        stages: All of them.
        current: The stage until now.
        elapsed: Seconds since that began.

    Returns:
        Its place, or None after the last. A stage is never cut short: whoever looks seldom stays longer.
    """
    if elapsed < stages[current].whole_s:
        return current
    return current + 1 if current + 1 < len(stages) else None
