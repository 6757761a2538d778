"""The forward pass in float64, which `llamafw.testing` brings."""

from llamafw.testing.reference import Reference, kl, reference, top1_agreement

__all__ = ["Reference", "kl", "reference", "top1_agreement"]
