"""One mount's life: start, background, signals, status, stop."""
