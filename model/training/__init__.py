"""Training: losses, the step, the loop, checkpoints, and comparisons of objectives."""
