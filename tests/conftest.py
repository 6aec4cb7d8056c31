"""What pytest is told of this folder."""

# No test, but a command of its own (`make mutate`), which needs a package that tests do not.
collect_ignore = ["mutation.py"]
