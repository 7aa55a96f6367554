"""Every configuration, answer and program that the docs show is one that works."""

from __future__ import annotations

import pytest

from tests.docs.snippets import Snippet, WrongError, check, snippets


@pytest.mark.parametrize("snippet", list(snippets()), ids=str)
def test_a_snippet_is_right(snippet: Snippet) -> None:
    check(snippet)


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("yaml", "batching: {max_batch: 4}", "batching.max_batch"),
        ("yaml", "prune: {sparsity: 2}", "prune.sparsity"),
        ("yaml", "listen: {port: 99999}", "listen.port"),
        ("yaml", "limits: {max_text_bytes: 0}", "max_text_bytes"),
        ("yaml", "banana: 1", "banana"),
        ("yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: 1}", "port"),
        ("yaml", "services: {a: {imagine: b}}", "imagine"),
        ("yaml", "groups: [{name: a, rules: [{record: 'a b', expr: up}]}]", "recording rule"),
        ("yaml", "- {job_name: a, static_config: []}", "static_config"),
        ("yaml", "source: {kind: floppy}", "floppy"),
        ("yaml", "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nspec: {a: 1}", "'a'"),
        ("json", '{"code": "no_such_code"}', "no_such_code"),
        ("json", '{"a": 1} {"b"}', "delimiter"),
        ("python", "from clients import Nobody", "Nobody"),
        ("python", "import os\nprint(undefined)", "undefined"),
        ("python", "gauge_of_nothing(1)", "gauge_of_nothing"),
        ("dockerfile", "FROM debian\n", "Always tag"),
        ("js", "const a = ;", "SyntaxError"),
        ("haskell", "main = pure ()", "nobody checks"),
    ],
)
def test_a_wrong_one_is_told(language: str, text: str, words: str) -> None:
    with pytest.raises(WrongError, match=words):
        check(Snippet("page.md", 1, language, text))
