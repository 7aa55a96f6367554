"""Errors of the load tests."""

from __future__ import annotations

from tritonforge.errors import TritonForgeError


class LoadTestError(TritonForgeError):
    """A load tool could not be installed, or its run failed."""
