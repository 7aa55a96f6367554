from __future__ import annotations

import pytest

from gateway.tracing import current_trace_id, enter, sampled

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_sampled_header_names_its_trace() -> None:
    assert sampled(f"00-{TRACE}-{SPAN}-01") == (TRACE, SPAN)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}-00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_not_sampled_or_no_header_names_none(header: str | None) -> None:
    assert sampled(header) is None
    enter(header)
    assert current_trace_id() is None


def test_the_trace_is_that_of_the_request_being_served() -> None:
    enter(f"00-{TRACE}-{SPAN}-01")
    assert current_trace_id() == TRACE
    enter(None)
    assert current_trace_id() is None
