"""The architecture ``nemotron_h_moe`` as transformers' Nemotron-H."""

from checkpoints.with_transformers.nemotron_h import build

__all__ = ["build"]
