"""The bundle: the exported encoder, checked and run."""
