"""The encoder's network, the data it learns from, and its training."""
