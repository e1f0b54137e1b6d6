"""A study answered from a recorded table instead of by training, in simulated time. Start at simulation.py. Knows neither torch nor Ray."""
