"""Trials on workers: what is trained next, the cluster it is trained on, and how a result finds its way back. Start at launch.py."""
