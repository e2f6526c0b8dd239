"""What changed between two run folders, as a file that makes the second of the first."""
