"""Predicts memory, work, replicas and GPUs of a recipe for a load, without running the service."""

from build_engines.estimate.estimate import CpuEstimate, Estimate, estimate
from build_engines.estimate.hardware import GPUS, Gpu, find_gpu

__all__ = ["GPUS", "CpuEstimate", "Estimate", "Gpu", "estimate", "find_gpu"]
