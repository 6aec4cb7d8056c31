"""Retrieval measured: clips of a manifest, scores by the field's conventions, reports. No torch
here.
"""
