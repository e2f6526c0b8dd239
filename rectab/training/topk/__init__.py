"""Top-k recommendation: positives against sampled negatives in training, a ranking of all items in evaluation."""
