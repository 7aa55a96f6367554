"""Changes a recipe's file line by line, so that comments, order and quotes of everything else stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tritonforge.files import replace_text
from tritonforge.recipe import Recipe, load_recipe

_PATHS = ("model", "calibration.texts", "gate.texts", "gate.labelled")


def edited(text: str, edits: Mapping[str, Any]) -> tuple[str, bool]:
    """Set keys of a recipe.

    Args:
        text: The YAML.
        edits: Values by dotted key; lists become flow sequences.

    Returns:
        The new text, and whether the comments could be kept: what aliases and merge keys share cannot be set
        for one place alone, so such a recipe is written anew.
    """
    wanted = yaml.safe_load(text)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in edits.items()}
    for key, value in plain.items():
        *sections, last = key.split(".")
        node = wanted
        for section in sections:
            node[section] = copy.copy(node.get(section) or {})  # an alias is one object in two places
            node = node[section]
        node[last] = value
    changed = text
    for key, value in plain.items():
        changed = _set(changed, key.split("."), _flow(value))
    try:
        kept = yaml.safe_load(changed) == wanted
    except yaml.YAMLError:
        kept = False
    return (changed, True) if kept else (yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True), False)


def write_tuned(source: Path, target: Path, recipe: Recipe, edits: Mapping[str, Any]) -> bool:
    """Write the better recipe, whole or not at all.

    Args:
        source: The recipe that was tuned.
        target: Where to write; may be the same.
        recipe: What the target must come to when it is read.
        edits: What differs from ``source``.

    Returns:
        Whether the comments were kept.

    Raises:
        OSError: It cannot be written.
        RuntimeError: It would not read back as ``recipe``; nothing is written.
    """
    text = source.read_text(encoding="utf-8")
    all_edits = dict(edits)
    if source.parent.resolve() != target.parent.resolve():
        all_edits |= _moved_paths(yaml.safe_load(text), recipe)
    new, kept = edited(text, all_edits)
    # Beside the target, as relative paths count from there.
    draft = target.with_name(f".{target.name}.draft")
    try:
        draft.write_text(new, encoding="utf-8")
        if load_recipe(draft) != recipe:
            raise RuntimeError(f"{source}: the edited recipe does not read back as what was measured")
    finally:
        draft.unlink(missing_ok=True)
    replace_text(target, new)
    return kept


def _moved_paths(data: Any, recipe: Recipe) -> dict[str, Any]:
    """Paths that are relative to the old folder, made absolute."""
    moved = {}
    for key in _PATHS:
        given: Any = data
        resolved: Any = recipe
        for part in key.split("."):
            given = given.get(part) if isinstance(given, dict) else None
            resolved = getattr(resolved, part)
        if given is not None and given != resolved:
            moved[key] = resolved
    return moved


def _set(text: str, path: list[str], value: str) -> str:
    """Set one key in the text, by the marks of PyYAML's nodes."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    for depth, part in enumerate(path):
        found = next(((key, child) for key, child in node.value if key.value == part), None)
        if found is None:
            return _insert(text, node, path[depth:], value)
        key, child = found
        if depth < len(path) - 1 and isinstance(child, yaml.MappingNode):
            node = child
            continue
        # A block sequence begins on the next line and ends with its last item.
        block = isinstance(child, yaml.SequenceNode) and not child.flow_style and bool(child.value)
        start = text.index(":", key.end_mark.index) + 1
        end = child.value[-1].end_mark.index if block else child.end_mark.index
        rest = path[depth + 1 :]
        return f"{text[:start]} {_nested(rest, value)}{text[end:]}"
    raise AssertionError(path)


def _insert(text: str, node: yaml.MappingNode, path: list[str], value: str) -> str:
    """Add a key that a mapping does not have."""
    if node.flow_style:
        end = node.end_mark.index - 1  # of the closing brace
        comma = ", " if node.value else ""
        body = text[:end].rstrip()
        return f"{body}{comma}{_nested(path, value, first=True)}{text[end:]}"
    if node.start_mark.column == 0:  # at the end of the file
        lines = text if text.endswith("\n") or not text else f"{text}\n"
        if len(path) == 1:
            return f"{lines}{path[0]}: {value}\n"
        return f"{lines}{path[0]}:\n  {_nested(path[1:], value, first=True)}\n"
    # After the last key rather than before the first, which may have a comment above it.
    last: yaml.Node = node
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    line_end = text.find("\n", last.end_mark.index)
    end = len(text) if line_end < 0 else line_end
    indent = " " * node.start_mark.column
    return f"{text[:end]}\n{indent}{_nested(path, value, first=True)}{text[end:]}"


def _nested(path: list[str], value: str, *, first: bool = False) -> str:
    """``{a: {b: value}}``; without the outer braces where ``first``."""
    for part in reversed(path):
        value = f"{{{part}: {value}}}"
    return value[1:-1] if first else value


def _flow(value: Any) -> str:
    """A value on one line."""
    dumped: str = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...")
