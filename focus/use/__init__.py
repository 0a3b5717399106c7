"""Use a trained detector: evaluate, explain, export."""
