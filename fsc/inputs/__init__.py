"""Bring in images and trained networks."""
