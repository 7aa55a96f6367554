"""What a recipe that generates text needs: a formula over its weights and KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.deployment import ServedModel
from deploy.sizing import MB, Built, Load, Sized, Way, finish
from tritonforge.errors import ModelFilesError
from tritonforge.recipe import GeneratorEngine, Recipe

if TYPE_CHECKING:
    from build_engines.generation.facts import ModelFacts
    from build_engines.model_files import ModelFiles

# A Python stub with OpenVINO GenAI and no model: an assumption, from 107 MB with OpenVINO alone.
BASE_BYTES = 300 * MB
# Cores of a server where the recipe names no threads: generation reads all weights for each token, so more
# cores than a few memory channels feed bring little.
CORES = 4
# Bytes of a parameter, as stored; four bits have a scale beside each group.
_WIDTH = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8-weights": 1.02, "int4-weights": 0.6, "auto": 2.0}


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a causal language model."""

    parameters: int
    vocab_size: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int | None


def size_generator(recipe: Recipe, path: Path, load: Load, built: Built | None) -> Sized:
    """Size a recipe that generates.

    Raises:
        ModelFilesError: Its model is not at hand.
        RecipeError: The recipe asks for longer sequences than the model can hold.
    """
    from build_engines.generation.engines import choose_engine
    from build_engines.generation.spec import settle_generator

    engine: GeneratorEngine = (
        "tensorrt-llm" if built and built.engine == "tensorrt-llm" else choose_engine(recipe)
    )
    found = read_dimensions(recipe.model)
    spec = settle_generator(recipe, _facts(found), engine)
    precision = built.precision if built else recipe.precision
    stored = int(found.parameters * _WIDTH[precision])
    cache = spec.kv_cache_tokens * spec.kv_bytes_per_token
    gpu = engine == "tensorrt-llm"
    if gpu:
        # Weights pass through main memory; the cache is the GPU's.
        memory, gpus = BASE_BYTES + stored, recipe.generation.tensor_parallel
    else:
        # The file as it is mapped, and the weights as kernels read them: in float32 where they compute in it.
        unpacked = 4 * found.parameters if recipe.generation.compute == "f32" else stored
        memory, gpus = BASE_BYTES + stored + unpacked + cache, 0
    model = ServedModel(
        name=recipe.name,
        task="generation",
        engine=engine,
        gpu=gpu,
        parts=(recipe.name,),
        recipe=path,
        memory_bytes=memory,
        disk_bytes=0,
        instances=1,
    )
    cores = float(recipe.threads.engine or CORES)
    note = (
        f"{recipe.name}: --qps and --p99-ms say nothing of text generation; 1 replica with {cores:g} cores, "
        f"memory by a formula ({math.ceil(cache / MB)} MB of it KV cache). Measure: "
        f"python -m loadtest.bench_generation {path}"
    )
    disk = built.disk_bytes if built else stored
    return finish(model, disk, 1, gpus, (Way(1, cores),), (*spec.notes, note))


def read_dimensions(source: str) -> Dimensions:
    """Read headers only, of safetensors or GGUF.

    Raises:
        ModelFilesError: Nothing is there, or it names no sizes.
    """
    from build_engines.generation.source import GgufFile, find_generator

    files = find_generator(source)
    try:
        return _gguf(files.path) if isinstance(files, GgufFile) else _safetensors(files)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFilesError(
            f"names no sizes of a causal language model: {error}",
            where=source,
            mend="give a folder with config.json and safetensors, or a file of GGUF",
        ) from error


def _safetensors(files: ModelFiles) -> Dimensions:
    """From ``config.json`` and the headers of the weights."""
    from safetensors import safe_open

    parameters = 0
    for path in files.weights:
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    config = files.config
    heads = int(config["num_attention_heads"])
    context = config.get("max_position_embeddings")
    return Dimensions(
        parameters=parameters,
        vocab_size=int(config["vocab_size"]),
        layers=int(config["num_hidden_layers"]),
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
        context=int(context) if context else None,
    )


def _gguf(path: Path) -> Dimensions:
    """From the keys of llama.cpp's format."""
    from gguf import GGUFReader

    reader = GGUFReader(path)

    def value(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        if field is None and default is None:
            raise KeyError(key)
        return default if field is None else field.contents()

    kind = value("general.architecture")
    heads = int(value(f"{kind}.attention.head_count"))
    context = value(f"{kind}.context_length", 0)
    return Dimensions(
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        vocab_size=len(value("tokenizer.ggml.tokens")),
        layers=int(value(f"{kind}.block_count")),
        kv_heads=int(value(f"{kind}.attention.head_count_kv", heads)),
        head_dim=int(value(f"{kind}.attention.key_length", int(value(f"{kind}.embedding_length")) // heads)),
        context=int(context) or None,
    )


def _facts(found: Dimensions) -> ModelFacts:
    """What the settling of lengths and cache asks for; the rest is the build's to read."""
    from build_engines.generation.facts import ModelFacts

    return ModelFacts(
        model_type="",
        architecture="",
        vocab_size=found.vocab_size,
        layers=found.layers,
        kv_heads=found.kv_heads,
        head_dim=found.head_dim,
        context=found.context,
        limits={},
        stop_ids=[],
        chat_template=False,
    )
