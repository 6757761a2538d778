"""Tiny models, which `llamafw.testing` brings."""

from llamafw.testing.tiny import write_tiny_gguf

__all__ = ["write_tiny_gguf"]
