"""Checks of the model folder alone: weights, architecture, vocabulary. Takes a second, needs no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.gate.tensors import Tensor, count_not_finite, read_tensors
from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.model_files import ModelFiles
from build_engines.spec import ModelSpec
from build_engines.texts import unknown_share

_SHOWN = 5
_LAYER = re.compile(r"^(?P<stack>.*?)\.(?P<number>\d+)\.(?P<rest>.+)$")
_TOKENS = re.compile(r"(^|\.)(word_embeddings|tok_embeddings|embed_tokens|wte)\.weight$")
_POSITIONS = re.compile(r"(^|\.)(position_embeddings|wpe)\.weight$")
_HEAD = re.compile(r"^(classifier|classifier\.out_proj|score)\.weight$")
_LEAST_TOKENS = 0.9
"""Share of the embedding's rows that the tokenizer must know. Rows are filled up to a multiple of 64 or
128 at most in published models (Qwen3 has 151,669 tokens for 151,936 rows), never by a tenth."""
_MOST_UNKNOWN = 0.2

# The names that the families of transformers give to one thing.
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "dim", "n_embd", "d_model")
_EMBEDDING = ("embedding_size", *_HIDDEN)
_FEED_FORWARD = ("intermediate_size", "hidden_dim", "n_inner", "d_ff", "ffn_dim")
_SPECIAL = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")

_REFETCH = "fetch the weights again, or export them anew from where they were trained"


def check_model(files: ModelFiles, spec: ModelSpec, tokenizer_path: Path | None) -> Verdict:
    """Check weights and architecture, before minutes go into export and compilation.

    Whether every tensor that the architecture needs is there, under its right name, is known only once
    transformers has made the model: the export step checks that. What is checked here shows in the
    files alone.

    Args:
        files: The model folder.
        spec: What it is served as.
        tokenizer_path: The ``tokenizer.json`` that is served; None leaves the vocabulary out.

    Returns:
        The verdict on the subject ``model``.
    """
    tensors = read_tensors(files.weights)
    checks = [
        _check_types(tensors),
        _check_finite(tensors),
        _check_embedding(tensors, files.config, spec),
        _check_layers(tensors, files.config),
        _check_shapes(tensors, files.config),
        _check_positions(tensors, spec),
    ]
    if spec.labels:
        checks.append(_check_head(tensors, spec))
    if tokenizer_path is not None:
        checks += _check_vocabulary(files, spec, tokenizer_path)
    return Verdict("model", tuple(checks))


def check_text(sequences: Sequence[NDArray[np.int32]], tokenizer_path: Path) -> GateCheck:
    """The held-out text is in a language that the vocabulary knows; else it is nothing to judge by.

    Args:
        sequences: Held-out text, int32 [n] each.
        tokenizer_path: The ``tokenizer.json`` that is served.
    """
    from tokenizers import Tokenizer

    share = unknown_share(sequences, Tokenizer.from_file(str(tokenizer_path)))
    return GateCheck(
        "text.unknown",
        "pass" if share <= _MOST_UNKNOWN else "fail",
        figure=share,
        threshold=_MOST_UNKNOWN,
        detail="share of the held-out text's tokens that the vocabulary does not know",
        mend="name text in the model's language (calibration.texts, gate.texts)",
    )


def _check_types(tensors: Mapping[str, Tensor]) -> GateCheck:
    """Every tensor is of a known type, and matrices are floating point."""
    odd = [t for t in tensors.values() if not t.is_known]
    odd += [t for t in tensors.values() if t.is_known and not t.is_float and t.name.endswith(".weight")]
    counts = Counter(t.dtype for t in tensors.values())
    return GateCheck(
        "weights.dtype",
        "fail" if odd else "pass",
        figure=len(odd),
        threshold=0,
        detail=", ".join(f"{number} tensors {dtype}" for dtype, number in counts.most_common()),
        worst=tuple({"tensor": t.name, "dtype": t.dtype} for t in odd[:_SHOWN]),
        mend="give unquantized weights (float32, float16 or bfloat16): quantization is done here",
    )


def _check_finite(tensors: Mapping[str, Tensor]) -> GateCheck:
    """No NaN, no Inf."""
    found = []
    for tensor in tensors.values():
        if tensor.is_float:
            count, first = count_not_finite(tensor)
            if count:
                found.append(
                    {"tensor": tensor.name, "values": count, "first": first, "file": tensor.path.name}
                )
    found.sort(key=lambda entry: -int(str(entry["values"])))
    return GateCheck(
        "weights.finite",
        "fail" if found else "pass",
        figure=sum(int(str(entry["values"])) for entry in found),
        threshold=0,
        detail=f"NaN or Inf in {len(found)} of {len(tensors)} tensors",
        worst=tuple(found[:_SHOWN]),
        mend=f"{_REFETCH}; NaN comes of a training that diverged or of a cast that overflowed",
    )


def _check_embedding(tensors: Mapping[str, Tensor], config: Mapping[str, Any], spec: ModelSpec) -> GateCheck:
    """The embedding has a row for each token and the width that config says."""
    table = _one(tensors, _TOKENS)
    if table is None:
        return GateCheck(
            "weights.embedding", "skipped", detail="no tensor bears a known name of an embedding"
        )
    wanted = (spec.vocab_size, _first(config, _EMBEDDING))
    good = len(table.shape) == 2 and all(
        w is None or w == h for w, h in zip(wanted, table.shape, strict=True)
    )
    return GateCheck(
        "weights.embedding",
        "pass" if good else "fail",
        figure=table.shape[0],
        threshold=spec.vocab_size,
        detail=f"{table.name} is {list(table.shape)}, config.json says {list(wanted)}",
        mend="config.json and weights are of different models: take both from one place",
    )


def _check_layers(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> GateCheck:
    """As many layers as config says, numbered from 0, with the same tensors in each."""
    layers = _layers(tensors)
    wanted = _first(config, ("num_hidden_groups",) if "num_hidden_groups" in config else _LAYERS)
    if not layers or wanted is None:
        return GateCheck("architecture.layers", "skipped", detail="the layers are named in no known way")
    problems: list[dict[str, Any]] = [
        {"layer": number, "problem": "missing"} for number in range(wanted) if number not in layers
    ]
    problems += [
        {"layer": number, "problem": "not in config.json"} for number in sorted(layers) if number >= wanted
    ]
    everywhere = Counter(rest for names in layers.values() for rest in names)
    for rest, count in everywhere.items():
        lacking = [number for number, names in layers.items() if rest not in names]
        # The first layer may lack what the others have (ModernBERT's has no norm before attention).
        if count == len(layers) - 1 and lacking != [0]:
            problems.append({"layer": lacking[0], "problem": f"{rest} is missing"})
    return GateCheck(
        "architecture.layers",
        "fail" if problems else "pass",
        figure=len(layers),
        threshold=wanted,
        detail=f"{len(layers)} layers in the weights, {wanted} in config.json",
        worst=tuple(problems[:_SHOWN]),
        mend=f"config.json and weights differ: {_REFETCH}",
    )


def _check_shapes(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> GateCheck:
    """The same shapes in every layer, and the sizes of config among them."""
    shapes: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    layers = _layers(tensors)
    for names in layers.values():
        for rest, tensor in names.items():
            shapes[rest][tensor.shape] += 1
    if not layers:
        return GateCheck("weights.shapes", "skipped", detail="the layers are named in no known way")
    odd: list[dict[str, Any]] = [
        {"tensor": tensor.name, "shape": list(tensor.shape), "others": list(usual)}
        for names in layers.values()
        for rest, tensor in names.items()
        if tensor.shape != (usual := shapes[rest].most_common(1)[0][0])
    ]
    sizes = {size for counts in shapes.values() for shape in counts if len(shape) == 2 for size in shape}
    for keys in (_HIDDEN, _FEED_FORWARD):
        size = _first(config, keys)
        # Gated feed-forward layers may hold two matrices in one.
        if size is not None and not {size, 2 * size} & sizes:
            key = next(key for key in keys if config.get(key))
            odd.append({"config": key, "value": size, "sizes": sorted(sizes)[-_SHOWN:]})
    return GateCheck(
        "weights.shapes",
        "fail" if odd else "pass",
        figure=len(odd),
        threshold=0,
        detail=f"{len(shapes)} kinds of tensors in {len(layers)} layers",
        worst=tuple(odd[:_SHOWN]),
        mend=f"config.json and weights differ: {_REFETCH}",
    )


def _check_positions(tensors: Mapping[str, Tensor], spec: ModelSpec) -> GateCheck:
    """A position for each token of the longest text."""
    table = _one(tensors, _POSITIONS)
    if table is None:
        return GateCheck("architecture.positions", "skipped", detail="positions are not in a table")
    return GateCheck(
        "architecture.positions",
        "pass" if table.shape[0] >= spec.max_length else "fail",
        figure=table.shape[0],
        threshold=spec.max_length,
        detail=f"{table.name} has {table.shape[0]} rows for max_length {spec.max_length}",
        mend="set max_length in the recipe to what the table holds",
    )


def _check_head(tensors: Mapping[str, Tensor], spec: ModelSpec) -> GateCheck:
    """The classification head has a row for each label."""
    head = _one(tensors, _HEAD)
    if head is None:
        return GateCheck("weights.head", "skipped", detail="no tensor bears a known name of a head")
    return GateCheck(
        "weights.head",
        "pass" if head.shape[0] == len(spec.labels) else "fail",
        figure=head.shape[0],
        threshold=len(spec.labels),
        detail=f"{head.name} is {list(head.shape)} for {len(spec.labels)} labels",
        mend="id2label in config.json and the weights are of different trainings: take both from one place",
    )


def _check_vocabulary(files: ModelFiles, spec: ModelSpec, path: Path) -> Iterator[GateCheck]:
    """The tokenizer's ids fit the embedding, it is about as large, and both name the same padding."""
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    largest = max(vocabulary.values(), default=-1)
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= spec.vocab_size)
    swap = "use the tokenizer that the model was trained with"
    yield GateCheck(
        "architecture.token_ids",
        "fail" if beyond else "pass",
        figure=largest,
        threshold=spec.vocab_size - 1,
        detail=f"{len(beyond)} tokens have ids beyond the embedding",
        worst=tuple({"token": token, "id": number} for number, token in beyond[:_SHOWN]),
        mend=swap,
    )
    share = len(vocabulary) / max(1, spec.vocab_size)
    yield GateCheck(
        "architecture.vocabulary",
        "pass" if share >= _LEAST_TOKENS else "fail",
        figure=share,
        threshold=_LEAST_TOKENS,
        detail=f"{len(vocabulary)} tokens for {spec.vocab_size} rows of the embedding",
        mend=swap,
    )
    yield _check_special(files, vocabulary, swap)


def _check_special(files: ModelFiles, vocabulary: Mapping[str, int], swap: str) -> GateCheck:
    """Special tokens that the tokenizer's files name are tokens, and the padding is config's."""
    named = _special_tokens(files)
    problems: list[dict[str, Any]] = [
        {"token": token, "problem": f"{key} is not in the vocabulary"}
        for key, token in named.items()
        if token not in vocabulary
    ]
    padding, wanted = named.get("pad_token", ""), files.config.get("pad_token_id")
    if padding in vocabulary and isinstance(wanted, int) and vocabulary[padding] != wanted:
        problems.append({"token": padding, "problem": f"id {vocabulary[padding]}, config.json says {wanted}"})
    return GateCheck(
        "architecture.special_tokens",
        "fail" if problems else "pass" if named else "skipped",
        figure=len(problems),
        threshold=0,
        detail=", ".join(named.values()) or "the tokenizer's files name none",
        worst=tuple(problems[:_SHOWN]),
        mend=swap,
    )


def _special_tokens(files: ModelFiles) -> dict[str, str]:
    """Special tokens by role, as text."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in (files.read_json(name) or {}).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key in _SPECIAL and isinstance(text, str):
                found[key] = text
    return found


def _layers(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors of the largest stack of layers, by layer and by name within it."""
    stacks: dict[str, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for tensor in tensors.values():
        if match := _LAYER.match(tensor.name):
            stacks[match["stack"]][int(match["number"])][match["rest"]] = tensor
    largest = max(stacks.values(), key=lambda stack: sum(map(len, stack.values())), default={})
    return {number: dict(names) for number, names in largest.items()}


def _one(tensors: Mapping[str, Tensor], pattern: re.Pattern[str]) -> Tensor | None:
    """The first tensor whose name matches."""
    return next((tensor for name, tensor in sorted(tensors.items()) if pattern.search(name)), None)


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of several keys that holds a size."""
    return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), None)
