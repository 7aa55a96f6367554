"""Smaller numbers: dynamic INT8."""
