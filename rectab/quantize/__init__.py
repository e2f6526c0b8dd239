"""Quantise a trained table: encodings of blocks of vectors, and which block takes which under a budget."""
