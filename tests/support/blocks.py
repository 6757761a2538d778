"""Random tensors, which `llamafw.testing` brings."""

from llamafw.testing.blocks import WRITABLE, random_tensor

__all__ = ["WRITABLE", "random_tensor"]
