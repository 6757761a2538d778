"""What plugins are tested with: tiny models, a backend that computes nothing, and pytest fixtures for servers.

The fixtures are there wherever llamafw is installed, without an import: see `llamafw.testing.plugin`.
"""
