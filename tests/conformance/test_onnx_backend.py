"""The backend for ONNX Runtime passes the suites for backends, on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

from llamafw.testing.conformance import BackendConformance, RecurrentBackendConformance
from support.onnx_backend import CPU


class TestOnnx(BackendConformance):
    name = "onnx"
    options: ClassVar[dict[str, Any]] = {"extra": CPU}


class TestOnnxWithRecurrentModels(RecurrentBackendConformance):
    name = "onnx"
    options: ClassVar[dict[str, Any]] = {"extra": CPU}
