"""Samplers of our own, on Optuna's interface."""
