"""The steps of an encoder's build, in order."""

from build_engines.context import BuildContext, Step
from build_engines.steps.check import CheckStep
from build_engines.steps.compile import CompileStep
from build_engines.steps.export import ExportStep
from build_engines.steps.gate import GateStep
from build_engines.steps.measure import MeasureStep
from build_engines.steps.prune import PruneStep
from build_engines.steps.publish import PublishStep
from build_engines.steps.quantize import QuantizeStep
from build_engines.steps.resolve import ResolveStep
from build_engines.steps.tokenize import TokenizeStep

STEPS: tuple[Step[BuildContext], ...] = (
    ResolveStep(),
    TokenizeStep(),
    PruneStep(),
    ExportStep(),
    QuantizeStep(),
    CompileStep(),
    CheckStep(),
    MeasureStep(),
    GateStep(),
    PublishStep(),
)
STEP_NAMES = tuple(step.name for step in STEPS)

__all__ = ["STEPS", "STEP_NAMES"]
