"""The networks: VLSA, and the published ones whose weights it can start from or read."""
