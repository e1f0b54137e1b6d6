"""A study's finished trials in the experiment tracker that somebody uses anyway: TensorBoard, MLflow or Weights & Biases.

They read the database beside a launch, so a tracker that fails costs no training, and the same command again adds what is missing.
"""
