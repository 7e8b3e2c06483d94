"""Evaluation: predictions, metrics, calibration and bounds."""
