"""A real server process, which `llamafw.testing` brings."""

from llamafw.testing.process import Server, running_server

__all__ = ["Server", "running_server"]
