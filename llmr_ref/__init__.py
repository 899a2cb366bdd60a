"""A language model from scratch in plain torch: one lecture idea per module."""

__version__ = "0.1.0"
