"""What pytest is told of this folder."""

# No tests: a command of its own (`make mutate`), which needs a package that tests do not, and what
# test_foreign.py runs in another environment.
collect_ignore = ["mutation.py", "foreign"]
