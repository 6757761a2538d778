"""The ``llamafw`` command."""

from llamafw.cli.main import main

__all__ = ["main"]
