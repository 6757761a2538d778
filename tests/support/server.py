"""A real server process, which `llamafw.testing` brings."""

from llamafw.testing.process import ServerProcess, running_server

__all__ = ["ServerProcess", "running_server"]
