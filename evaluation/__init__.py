"""Metrics for folders of generated images. Every method is measured by the same judge; no method is imported."""
