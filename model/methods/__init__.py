"""The ideas of other works, a file each. A recipe names those that it uses: training/tables.py."""
