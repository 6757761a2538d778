"""Finds out what an execution provider of ONNX Runtime can run, by building tiny models of single nodes.

Versions and lists of kernels do not tell: a kernel may exist for some types and sizes only. A session without the
fallback to the CPU fails if the provider lacks a kernel, and running it shows kernels that refuse their inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.sessions import open_session

CPU = "CPUExecutionProvider"
NO_FALLBACK = "session.disable_cpu_ep_fallback"


@dataclass(slots=True)
class Support:
    """What a provider can run.

    Attributes
    ----------
    providers : sequence of str or (str, dict)
        The provider with its options, as `onnxruntime.InferenceSession` takes them.
    float_type : numpy type
        The type of activations.
    """

    providers: Sequence[Any]
    float_type: np.dtype[Any]
    found: dict[str, bool] = field(default_factory=dict)

    def multiplies_blocks(self, bits: int, block_size: int) -> bool:
        """Return whether MatMulNBits works with such codes."""
        rng = np.random.default_rng(0)
        n_in, n_out, middle = 2 * max(block_size, 32), 16, 2 ** (bits - 1)
        x = rng.standard_normal((3, n_in)).astype(self.float_type)
        codes = rng.integers(0, 2**bits, (n_out, n_in // block_size, block_size), dtype=np.uint8)
        scales = rng.uniform(0.5, 1, codes.shape[:2]).astype(self.float_type)

        def model(b: ModelBuilder) -> None:
            n = 8 // bits
            packed = sum(codes[..., i::n].astype(np.uint8) << np.uint8(bits * i) for i in range(n))
            b.node(
                "com.microsoft.MatMulNBits",
                b.input("x", self.float_type, ["n", n_in]),
                b.constant(np.asarray(packed, np.uint8)),
                b.constant(scales),
                outputs=["y"],
                K=n_in,
                N=n_out,
                bits=bits,
                block_size=block_size,
                accuracy_level=0,
            )
            b.output("y", self.float_type, ["n", n_out])

        weights = ((codes.astype(np.float64) - middle) * scales[..., None]).reshape(n_out, n_in)
        expected = x.astype(np.float64) @ weights.T
        return self._check(f"MatMulNBits with {bits} bits in blocks of {block_size}", model, {"x": x}, expected)

    def runs(self, name: str, build: Any, feeds: Mapping[str, Array], expected: Array | None = None) -> bool:
        """Return whether the provider runs a tiny model, and computes what is expected.

        Parameters
        ----------
        name : str
            What is tried; a model is tried once.
        build : callable
            Adds the model's nodes to a `ModelBuilder`; its first output is ``y``.
        feeds : mapping of str to array
            The inputs.
        expected : array, optional
            The first output.
        """
        return self._check(name, build, feeds, expected)

    def _check(self, name: str, build: Any, feeds: Mapping[str, Array], expected: Array | None) -> bool:
        if name not in self.found:
            self.found[name] = self._try(build, feeds, expected)
        return self.found[name]

    def _try(self, build: Any, feeds: Mapping[str, Array], expected: Array | None) -> bool:
        b = ModelBuilder(self.float_type)
        build(b)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if self.providers[0][0] != CPU:
            options.add_session_config_entry(NO_FALLBACK, "1")
        values = {key: ort.OrtValue.ortvalue_from_numpy(array) for key, array in b.weights.items()}
        options.add_external_initializers(list(values), list(values.values()))
        try:
            session = open_session(b.build().SerializeToString(), options, self.providers)
            result = session.run(None, dict(feeds))[0]
        except Exception:  # onnxruntime has a class for each kind of failure, and none for all
            return False
        tolerance = 0.05 if self.float_type == np.float16 else 1e-3
        return expected is None or bool(np.allclose(result, expected, tolerance, tolerance))
