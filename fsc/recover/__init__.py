"""Bring a smaller network back with few images: FSKD, MiR, PRACTISE, baselines."""
