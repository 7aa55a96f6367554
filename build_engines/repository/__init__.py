"""Writes what Triton loads."""
