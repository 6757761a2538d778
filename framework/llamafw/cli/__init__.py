"""The ``llamafw`` command and its subcommands."""

from llamafw.cli.main import main

__all__ = ["main"]
