"""What the commands of tuner.cli do."""
