"""Tools for testing plugins: tiny models, a fake backend, pytest fixtures that start servers, conformance suites.

`llamafw.testing.plugin` describes the fixtures; pytest finds them wherever llamafw is installed, without an import.
`llamafw.testing.conformance` has one suite per kind of plugin, as a class to subclass.
"""
