"""Compress finished runs: the trained full table is encoded to a budget, and nothing is trained again."""
