"""Whether greedy answers depend on what else is generated, and what that freedom would gain in speed.

::

    python -m loadtest.bench_exactness smollm2

takes the published model, asks each prompt alone, then all at once, with each way to compute and to cache.
It runs the engine in this process; no server is needed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.table import Table
from tokenizers import Tokenizer

from build_engines.generation.answers import Ids, run_together
from build_engines.generation.spec import BF16_HEAD
from build_engines.generation.validate import find_generator_version
from python_backends.generator.openvino_genai import OpenVinoGenerator
from python_backends.generator.protocol import Generator
from tritonforge.console import console

_THINGS = (
    *("tea", "coffee", "bread", "wine", "salt", "silk", "paper", "glass"),
    *("iron", "gold", "steam", "radio", "maps", "clocks", "rivers"),
)
PROMPTS = [f"Tell me about {thing}." for thing in _THINGS] + [
    f"A short poem on {thing}:" for thing in _THINGS
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every setting and print one row each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="name of a generation model in the repository")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    options = parser.parse_args(arguments)

    published = find_generator_version(options.repository, options.model)
    settings, folder = published.settings, published.folder
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [np.array(tokenizer.encode(text).ids, dtype=np.int64) for text in PROMPTS[: options.prompts]]

    table = Table(title=f"{options.model}, {settings.precision}: {len(prompts)} answers of {options.tokens}")
    for heading in ("compute", "KV cache", "the same alone and together", "tokens/s alone", "together"):
        table.add_column(heading, justify="right")
    ways = [("f32", "f32"), ("f32", "f16"), ("f32", "u8")]
    if _head_dim(folder) >= BF16_HEAD:
        ways.append(("bf16", "f16"))
    else:
        console.print(f"without bf16, which needs heads of {BF16_HEAD} and more")
    if settings.precision in ("int8-weights", "int4-weights"):
        ways.append(("int8", "f16"))
    for compute, cache in ways:
        way = replace(settings, compute=compute, kv_cache_precision=cache, max_num_seqs=len(prompts))
        engine = OpenVinoGenerator(folder, way)
        start = time.perf_counter()
        alone = [_answers(engine, [prompt], options.tokens)[0] for prompt in prompts]
        middle = time.perf_counter()
        together = _answers(engine, prompts, options.tokens)
        end = time.perf_counter()
        engine.close()
        equal = sum(one == other for one, other in zip(alone, together, strict=True))
        made = len(prompts) * options.tokens
        speeds = (f"{made / (middle - start):.0f}", f"{made / (end - middle):.0f}")
        table.add_row(compute, cache, f"{equal} of {len(prompts)}", *speeds)
    console.print(table)


def _head_dim(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _answers(engine: Generator, prompts: Sequence[Ids], tokens: int) -> list[list[int]]:
    """Greedy token ids for all prompts at once."""
    return [answer.tokens for answer in run_together(engine, prompts, tokens, ignore_eos=True)]


if __name__ == "__main__":
    main()
