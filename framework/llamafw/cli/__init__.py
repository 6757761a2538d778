"""The ``llamafw`` command."""
