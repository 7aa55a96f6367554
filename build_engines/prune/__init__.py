"""Structured pruning: attention heads and feed-forward channels leave the weight matrices for good."""

from build_engines.prune.run import CurvePoint, PruneReport, prune_model
from build_engines.prune.store import load_pruned

__all__ = ["CurvePoint", "PruneReport", "load_pruned", "prune_model"]
