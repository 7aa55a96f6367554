"""Turns a packed graph, once it is read into OpenVINO, into one that takes windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

MASKED_SCORE = -65504.0
"""What attention adds to the score of a token that is not to be seen: fits float16, and is no infinity."""

TO_RECTANGLE = "packed.to_rectangle"
FROM_RECTANGLE = "packed.from_rectangle"
SEQUENCE_OF = "packed.sequence_of"
KEY_BIAS = "packed.key_bias"

MARKS = (TO_RECTANGLE, FROM_RECTANGLE, SEQUENCE_OF, KEY_BIAS)
"""Tensors of a packed graph that an export names, for :func:`to_windows` to find.

Indices that gather tokens [tokens, ...] to the cells of a rectangle, and back; INT32 or INT64 [tokens], the
sequence of each token; and float32 [sequences, 1, 1, longest], added to the scores of attention.
"""


def to_windows(model: Any) -> bool:
    """Let attention work on the token axis itself, as rows of ``max_seqlen`` slots.

    The gathers go, and the mask keeps the sequences of one row apart, where it hid cells without a token.

    Args:
        model: ``openvino.Model`` of a packed graph; changed in place.

    Returns:
        Whether the graph has all marks. If not, as in an older export, it is left as it was.
    """
    from openvino import opset13 as ops

    marked = _find(model.get_ops())
    if len(marked) < len(MARKS):
        return False
    width_port = _input(model, "max_seqlen")
    gathers = [gather for mark in (TO_RECTANGLE, FROM_RECTANGLE) for gather in _gathers(marked[mark])]
    if width_port is None or None in gathers:
        return False
    sequence_of, key_bias = marked[SEQUENCE_OF], marked[KEY_BIAS]
    width = ops.shape_of(width_port, "i64")
    unknown, one = (ops.constant(np.array([number], np.int64)) for number in (-1, 1))
    rows = ops.reshape(sequence_of, ops.concat([unknown, one, one, width], 0), special_zero=False)
    columns = ops.reshape(sequence_of, ops.concat([unknown, one, width, one], 0), special_zero=False)
    seen, unseen = (ops.constant(np.float32(score)) for score in (0.0, MASKED_SCORE))
    _replace(key_bias, ops.select(ops.equal(rows, columns), seen, unseen).output(0))
    for gather in gathers:
        _replace(gather.output(0), gather.input_value(0))
    model.validate_nodes_and_infer_types()
    return True


def _find(nodes: Iterable[Any]) -> dict[str, Any]:
    """Outputs by their mark."""
    return {
        name: output
        for node in nodes
        for output in node.outputs()
        for name in output.get_names().intersection(MARKS)
    }


def _input(model: Any, name: str) -> Any | None:
    return next((port for port in model.inputs if name in port.get_names()), None)


def _gathers(indices: Any) -> list[Any]:
    """The nodes that gather by these indices, be they flattened or converted; None for one that does else."""
    found: list[Any] = []
    for target in indices.get_target_inputs():
        node, place = target.get_node(), target.get_index()
        if node.get_type_name() in ("Reshape", "Convert") and place == 0:
            found += _gathers(node.output(0))
        else:
            found.append(node if node.get_type_name() == "Gather" and place == 1 else None)
    return found


def _replace(old: Any, new: Any) -> None:
    """Give ``new`` to all that read ``old``."""
    for target in old.get_target_inputs():
        target.replace_source_output(new)
