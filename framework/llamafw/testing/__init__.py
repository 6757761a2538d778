"""What plugins are tested with: tiny models, a backend that computes nothing, pytest fixtures for servers, and suites.

The suites are classes to subclass, one per kind of plugin: see `llamafw.testing.conformance`.
The fixtures are there wherever llamafw is installed, without an import: see `llamafw.testing.plugin`.
"""
