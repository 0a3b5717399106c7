"""From images to scores, estimates and results."""
