"""Run every method under every setting, and store one row per run."""
