"""A trained model out of Python: one graph from ids to probabilities, and a file that says what it takes."""
