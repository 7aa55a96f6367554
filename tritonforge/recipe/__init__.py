"""The recipe: one YAML file a model, the only thing a user edits."""

from tritonforge.recipe.load import dump_recipe, load_recipe
from tritonforge.recipe.schema import (
    Batching,
    Cache,
    Classification,
    Embedding,
    EngineName,
    Instances,
    Layout,
    LengthShare,
    Limits,
    Pooling,
    Precision,
    Queue,
    Recipe,
    Task,
    Threads,
    Warmup,
)

__all__ = [
    "Batching",
    "Cache",
    "Classification",
    "Embedding",
    "EngineName",
    "Instances",
    "Layout",
    "LengthShare",
    "Limits",
    "Pooling",
    "Precision",
    "Queue",
    "Recipe",
    "Task",
    "Threads",
    "Warmup",
    "dump_recipe",
    "load_recipe",
]
