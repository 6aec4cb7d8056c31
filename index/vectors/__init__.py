"""Vectors and how they are searched: derived from the records, and made anew where in doubt."""
