"""``make gpu-check``: what rectab does on a GPU, checked against the reference and timed, in at most five minutes.

A bare machine is enough: torch and triton, and rectab's core dependencies (numpy, numba, safetensors, xxhash). Batches
are generated. What needs more (polars, FBGEMM) is left out where that is missing, and the result says so.
"""
