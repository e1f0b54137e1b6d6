"""Measurements of this project, each a command whose output is committed in benchmarks/results."""
