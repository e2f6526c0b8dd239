"""What changed between two run folders, as a file that makes the second of the first."""

from rectab.training.deltas.delta import Changes, apply_delta, apply_deltas, ids_gone, save_delta

__all__ = ["Changes", "apply_delta", "apply_deltas", "ids_gone", "save_delta"]
