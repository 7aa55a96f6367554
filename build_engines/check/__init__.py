"""Checks of what was built against the model as transformers runs it."""
