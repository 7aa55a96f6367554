"""Calibrated INT8 (and FP8) by explicit Q/DQ: ranges, migration of outliers, and the choice of layers."""

from build_engines.compress.int8.quantize import quantize_calibrated
from build_engines.compress.int8.report import CurvePoint, LayerRow, QuantizationReport

__all__ = ["CurvePoint", "LayerRow", "QuantizationReport", "quantize_calibrated"]
