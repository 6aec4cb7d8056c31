"""Measures retrieval: clips of a manifest, the field's metrics, reports. No torch here."""
