"""The one exception tree.

Every error a user can meet derives from :class:`TritonForgeError` and says three things: what was
wrong, where (file, key, model), and what to do about it. The command line prints them and exits
with :attr:`TritonForgeError.exit_code`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class TritonForgeError(Exception):
    """Base of all errors that tritonforge raises on purpose.

    Args:
        what: What was wrong, in one sentence.
        where: The file, key or model it concerns, if there is one.
        mend: What the user can do about it, preferably a command.
        figures: What was measured, where a report should show it; values fit JSON.

    Attributes:
        exit_code: Exit status of the command line: 1 a check failed, 2 bad usage or a bad recipe.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        mend: str | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the parts apart, so that ``--json`` can print them as fields."""
        self.figures: Mapping[str, Any] = figures or {}
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(str(self))

    def __str__(self) -> str:
        """Join the parts into one message."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  mend: {self.mend}" if self.mend else head

    def as_dict(self) -> dict[str, str | None]:
        """The parts, for ``--json`` and reports."""
        return {"error": type(self).__name__, "what": self.what, "where": self.where, "mend": self.mend}


class UsageError(TritonForgeError):
    """The command line was used in a way that cannot work."""

    exit_code = 2


class RecipeError(TritonForgeError):
    """A recipe is missing, unreadable, or holds a value that is not allowed."""

    exit_code = 2


class ModelFilesError(TritonForgeError):
    """The model folder or package is missing, incomplete or damaged."""

    exit_code = 2


class BuildError(TritonForgeError):
    """A step of the build failed."""


class ExportError(BuildError):
    """The model could not be exported to ONNX."""


class ParityError(BuildError):
    """The exported graph does not give the numbers of the reference model."""


class EngineError(BuildError):
    """An engine could not be compiled, loaded or run."""


class CalibrationError(BuildError):
    """The calibration text is missing, empty or unfit, or a layer cannot be calibrated."""


class PruningError(BuildError):
    """Pruning to the wanted sparsity costs more accuracy than the recipe allows."""


class GateError(BuildError):
    """What was built is worse, or slower, than the recipe allows."""


class RepositoryError(TritonForgeError):
    """The model repository is missing, inconsistent, or could not be written."""


class ServerError(TritonForgeError):
    """tritonserver could not be found, started, or did not become ready."""


def first_line(error: BaseException) -> str:
    """What a foreign exception says, on one line: its message's first, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
