"""rectab: embedding tables for CTR models at any memory budget."""

__version__ = "0.1.0"
