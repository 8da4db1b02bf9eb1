"""Benchmark and experiment tracking for lightweight skin-lesion classifiers."""

__version__ = "0.1.0"
