"""The backend for ONNX Runtime passes the suites for backends, on the CPU."""

from __future__ import annotations

from llamafw.testing.conformance import BackendConformance, RecurrentBackendConformance


class TestOnnx(BackendConformance):
    name = "onnx"


class TestOnnxWithRecurrentModels(RecurrentBackendConformance):
    name = "onnx"
