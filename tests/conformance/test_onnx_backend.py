"""The backend for ONNX Runtime passes the suites for backends, on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llamafw.testing.conformance import BackendConformance, RecurrentBackendConformance
from support.onnx_backend import CPU
from support.paged_attention import emulate


class TestOnnx(BackendConformance):
    name = "onnx"
    options: ClassVar[dict[str, Any]] = {"extra": CPU}


class TestOnnxWithCachesInBlocks(BackendConformance):
    name = "onnx"
    options: ClassVar[dict[str, Any]] = {"extra": CPU}

    @pytest.fixture(autouse=True, params=[True, False], ids=["captured", "not captured"])
    def emulated(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        emulate(monkeypatch, captures=request.param)


class TestOnnxWithRecurrentModels(RecurrentBackendConformance):
    name = "onnx"
    options: ClassVar[dict[str, Any]] = {"extra": CPU}
