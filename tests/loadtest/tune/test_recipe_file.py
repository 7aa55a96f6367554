"""A recipe's file is changed where it must be, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loadtest.tune.recipe_file import edited, write_tuned
from loadtest.tune.space import apply
from tritonforge.recipe import load_recipe

TEXT = """\
# Sentence embeddings.
name: tiny   # of the ensemble
model: ./weights

batching:   # how
  # microseconds
  max_queue_delay_us: 5   # us

  # the end of batching
threads: {engine: 0}  # in braces
instances:
  engine: 1
# the last line
"""


def test_values_change_and_every_comment_stays() -> None:
    new, kept = edited(
        TEXT,
        {
            "batching.max_queue_delay_us": 200,
            "batching.preferred_batch_sizes": (8, 16),
            "threads.engine": 2,
            "threads.tokenizer": 4,
            "instances.tokenizer": 3,
            "warmup.enabled": False,
            "engine": "openvino",
        },
    )
    assert kept
    assert new == (
        TEXT.replace(
            "max_queue_delay_us: 5   # us",
            "max_queue_delay_us: 200   # us\n  preferred_batch_sizes: [8, 16]",
        )
        .replace("{engine: 0}", "{engine: 2, tokenizer: 4}")
        .replace("  engine: 1\n", "  engine: 1\n  tokenizer: 3\n")
        + "warmup:\n  enabled: false\nengine: openvino\n"
    )


def test_nothing_to_change_changes_nothing() -> None:
    assert edited(TEXT, {}) == (TEXT, True)


@pytest.mark.parametrize(
    "text",
    [
        "name: a\nbatching:\n  preferred_batch_sizes:\n  - 8   # eight\n  - 16\n  token_budget: 4",
        "name: a\nbatching:\n    preferred_batch_sizes:\n      - 8\n      - 16\n# end\n",
        "{name: a, batching: {}}\n",
        "name: a\n'batching' : {preferred_batch_sizes: [ 8,\n  16 ]} # two lines\n",
        "---\nname: a",
    ],
)
def test_every_way_to_write_a_mapping(text: str) -> None:
    new, kept = edited(text, {"batching.preferred_batch_sizes": (4,), "batching.token_budget": 9})
    assert kept
    wanted = yaml.safe_load(text)
    wanted.setdefault("batching", {}).update(preferred_batch_sizes=[4], token_budget=9)
    assert yaml.safe_load(new) == wanted


def test_what_aliases_share_is_set_for_one_place_alone() -> None:
    new, kept = edited("name: a\nfirst: &x {c: 1}\nsecond: *x\n", {"second.c": 2})
    assert not kept
    assert yaml.safe_load(new) == {"name": "a", "first": {"c": 1}, "second": {"c": 2}}


def test_written_elsewhere_it_is_the_same_recipe(tmp_path: Path) -> None:
    source = tmp_path / "recipes" / "tiny.yaml"
    source.parent.mkdir()
    source.write_text(TEXT)
    wanted = apply(load_recipe(source), {"batching.max_queue_delay_us": 200})
    for target in (source.with_suffix(".tuned.yaml"), tmp_path / "tiny.yaml"):
        assert write_tuned(source, target, wanted, {"batching.max_queue_delay_us": 200})
        assert load_recipe(target) == wanted
    assert "./weights" in source.with_suffix(".tuned.yaml").read_text()
    assert source.read_text() == TEXT
    assert sorted(path.name for path in source.parent.iterdir()) == ["tiny.tuned.yaml", "tiny.yaml"]


def test_what_would_not_read_back_is_not_written(tmp_path: Path) -> None:
    source = tmp_path / "tiny.yaml"
    source.write_text(TEXT)
    wanted = apply(load_recipe(source), {"batching.max_queue_delay_us": 200})
    with pytest.raises(RuntimeError, match="does not read back"):
        write_tuned(source, source, wanted, {"batching.max_queue_delay_us": 300})
    assert source.read_text() == TEXT
    assert list(tmp_path.iterdir()) == [source]
