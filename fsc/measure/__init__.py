"""Measure how good, how large and how fast a network is."""
