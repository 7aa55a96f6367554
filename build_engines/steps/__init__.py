"""The steps of a build, in order."""

from build_engines.context import Step
from build_engines.steps.check import CheckStep
from build_engines.steps.compile import CompileStep
from build_engines.steps.export import ExportStep
from build_engines.steps.measure import MeasureStep
from build_engines.steps.publish import PublishStep
from build_engines.steps.resolve import ResolveStep

STEPS: tuple[Step, ...] = (
    ResolveStep(),
    ExportStep(),
    CompileStep(),
    CheckStep(),
    MeasureStep(),
    PublishStep(),
)
STEP_NAMES = tuple(step.name for step in STEPS)

__all__ = ["STEPS", "STEP_NAMES"]
