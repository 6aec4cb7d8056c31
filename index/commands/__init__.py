"""The commands of `python -m index`, a module each.

A command's module has `add_parser`, which adds it with its flags, and `run`, which does it and
returns the exit status. `flags.py` has the flags that commands share.
"""
