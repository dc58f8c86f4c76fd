"""Exact edits of single modules, and the recipe that replays them."""
