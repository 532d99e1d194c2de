"""Glow: exact likelihood, exact codes of real faces, and edits of them."""
