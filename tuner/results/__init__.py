"""What a study has found: fronts, what of them is confirmed, and the tables and pictures that show it."""
