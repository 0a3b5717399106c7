"""Start programs and processes, answer signals, write files whole."""
