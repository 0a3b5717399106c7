"""The detector: backbone, head, weights, saved folder and prediction."""
