"""Vectors kept and found."""
