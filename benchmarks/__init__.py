"""Measurements: commands that write files of benchmarks/results/, and what they share."""
