"""Formats of quantised checkpoints, one per file: how integers and scales are stored, and what weights they mean."""
