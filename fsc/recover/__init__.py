"""Repair a smaller network with few images: FSKD, MiR, PRACTISE, baselines."""
