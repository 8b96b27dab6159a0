"""Pilothouse: take an open foundation model to a governed production service, and keep it good there."""

__version__ = "0.1.0"
