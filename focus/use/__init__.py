"""What is done with a trained detector: evaluate, explain, export."""
