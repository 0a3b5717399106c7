"""One training run: data to steps, checkpoints and the run folder."""
