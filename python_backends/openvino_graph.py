"""Turns a packed graph, once it is read into OpenVINO, into one that takes windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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

    The gathers go, and the mask keeps the sequences of one row apart, where it hid the cells without a token.

    Args:
        model: ``openvino.Model`` of a packed graph; changed in place.

    Returns:
        Whether the graph has all marks. It is left as it was if not: one of an older export, or of another tool.
    """
    from openvino import opset13 as ops

    marked = _find(model.get_ops())
    if len(marked) < len(MARKS):
        return False
    for mark in (TO_RECTANGLE, FROM_RECTANGLE):
        for target in marked[mark].get_target_inputs():
            gather = target.get_node()
            if gather.get_type_name() != "Gather" or target.get_index() != 1:
                return False
    sequence_of, key_bias = marked[SEQUENCE_OF], marked[KEY_BIAS]
    width = ops.shape_of(_parameter(model, "max_seqlen"), "i64")
    unknown, one = (ops.constant([number], "i64") for number in (-1, 1))
    rows = ops.reshape(sequence_of, ops.concat([unknown, one, one, width], 0), special_zero=False)
    columns = ops.reshape(sequence_of, ops.concat([unknown, one, width, one], 0), special_zero=False)
    seen, unseen = (ops.constant(score, key_bias.get_element_type()) for score in (0.0, MASKED_SCORE))
    _replace(key_bias, ops.select(ops.equal(rows, columns), seen, unseen).output(0))
    for mark in (TO_RECTANGLE, FROM_RECTANGLE):
        for target in marked[mark].get_target_inputs():
            gather = target.get_node()
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


def _parameter(model: Any, name: str) -> Any:
    return next(port for port in model.inputs if name in port.get_names())


def _replace(old: Any, new: Any) -> None:
    """Give ``new`` to all that read ``old``."""
    for target in old.get_target_inputs():
        target.replace_source_output(new)
