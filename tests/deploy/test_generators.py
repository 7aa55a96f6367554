"""What a generator needs, read from its files' headers: safetensors or GGUF."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from deploy.deployment import Resources
from deploy.generators import BASE_BYTES, Dimensions, read_dimensions, size_generator
from deploy.sizing import Built, Load
from tritonforge.errors import ModelFilesError, RecipeError
from tritonforge.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(tiny_generator: Path, tmp_path: Path) -> Recipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"name: tiny\nmodel: {tiny_generator}\ntask: generation\n")
    return load_recipe(path)


def parameters(folder: Path) -> int:
    return sum(tensor.size for path in folder.glob("*.safetensors") for tensor in load_file(path).values())


def test_safetensors(tiny_generator: Path) -> None:
    found = read_dimensions(str(tiny_generator))
    assert replace(found, vocab_size=0) == Dimensions(parameters(tiny_generator), 0, 2, 2, 16, 512)


def test_gguf(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_token_list(["a", "b", "c"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 64), np.float32))
    quantized = gguf.quantize(np.zeros((64, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_dimensions(str(path)) == Dimensions(3 * 64 + 64 * 64, 3, 3, 1, 16, 256)


def test_a_model_that_names_no_sizes(tiny_generator: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_generator, folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelFilesError, match="num_attention_heads"):
        read_dimensions(str(folder))


def test_memory_is_weights_and_cache(recipe: Recipe, tmp_path: Path) -> None:
    path, load = tmp_path / "tiny.yaml", Load()
    found = size_generator(recipe, path, load, None)
    count = parameters(Path(recipe.model))
    per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width, float32
    cache = 32 * 512 * per_token
    # Float16 as stored, and float32 as computed.
    assert found.model.memory_bytes == BASE_BYTES + 2 * count + 4 * count + cache
    assert found.model.disk_bytes == 2 * count
    assert (found.model.parts, found.stubs, found.gpus) == (("tiny",), 1, 0)
    assert found.ways[0].replicas == 1
    assert isinstance(found.model.alone, Resources)
    assert found.model.alone.memory_bytes > found.model.memory_bytes
    assert "--qps" in found.notes[-1]
    small = recipe.model_copy(update={"generation": recipe.generation.model_copy(update={"kv_cache_mib": 8})})
    less = size_generator(small, path, load, None).model.memory_bytes
    assert found.model.memory_bytes - less == cache - (8 << 20)


def test_what_was_published_counts(recipe: Recipe, tmp_path: Path) -> None:
    built = Built("openvino-genai", "int8-weights", 12345)
    found = size_generator(recipe, tmp_path / "tiny.yaml", Load(), built)
    assert found.model.disk_bytes == 12345
    assert found.model.engine == "openvino-genai"


def test_gpus(recipe: Recipe, tmp_path: Path) -> None:
    two = recipe.generation.model_copy(update={"tensor_parallel": 2})
    wanted = recipe.model_copy(update={"engine": "tensorrt-llm", "generation": two})
    found = size_generator(wanted, tmp_path / "tiny.yaml", Load(), None)
    assert (found.gpus, found.model.gpu) == (2, True)
    assert found.model.alone is not None and found.model.alone.gpus == 2


def test_a_cache_that_holds_no_sequence(recipe: Recipe, tmp_path: Path) -> None:
    cramped = recipe.model_copy(
        update={
            "generation": recipe.generation.model_copy(update={"kv_cache_mib": 1}),
            "max_length": 512,
        }
    )
    with pytest.raises(RecipeError):
        size_generator(cramped.model_copy(update={"max_length": 4096}), tmp_path / "tiny.yaml", Load(), None)
