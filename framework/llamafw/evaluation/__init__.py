"""Measure models with texts: how well they predict them, and which of their weights matter."""
