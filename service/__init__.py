"""The HTTP service: batch, embed, search."""
