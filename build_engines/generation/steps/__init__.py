"""The steps of a generator's build, in order; named as an encoder's where they mean the same."""

from build_engines.context import Step
from build_engines.generation.context import GenerationContext
from build_engines.generation.steps.check import CheckStep
from build_engines.generation.steps.compress import CompressStep
from build_engines.generation.steps.export import ExportStep
from build_engines.generation.steps.gate import GateStep
from build_engines.generation.steps.import_gguf import ImportStep
from build_engines.generation.steps.measure import MeasureStep
from build_engines.generation.steps.publish import PublishStep
from build_engines.generation.steps.resolve import ResolveStep
from build_engines.generation.steps.tokenize import TokenizeStep

GENERATION_STEPS: tuple[Step[GenerationContext], ...] = (
    ResolveStep(),
    ImportStep(),
    TokenizeStep(),
    ExportStep(),
    CompressStep(),
    CheckStep(),
    MeasureStep(),
    GateStep(),
    PublishStep(),
)

__all__ = ["GENERATION_STEPS"]
