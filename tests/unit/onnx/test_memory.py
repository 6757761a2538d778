"""A device without memory ends one request, and weights are not kept twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Unavailable
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx.backend import OnnxBackend
from llamafw_backends.onnx.device_tensors import SlotTensors
from llamafw_backends.onnx.lowering import StateTensor
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.providers import PROVIDERS
from llamafw_backends.onnx.sessions import is_out_of_memory
from support.numba_backend import make_context

F32 = np.dtype(np.float32)
HUGE = 2**50  # more positions than any machine has memory for
TOKENS = list(range(1, 9))


def test_cache_that_cannot_grow_says_how_much_it_needs() -> None:
    value = g.Input("tokens")
    states = [StateTensor("0.key", (2, 4), F32, True, value), StateTensor("1.state", (3,), F32, False, value)]
    tensors = SlotTensors(PROVIDERS["cpu"].device(), states, 2, HUGE)
    rows = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)
    tensors.write(states[0], 1, rows)
    before = tensors.n_bytes

    message = "the CPU has not enough memory for 68,719,476,736 MiB of KV cache, for 2 slots of .* tokens; it has 0 MiB"
    with pytest.raises(Unavailable, match=message):
        tensors.reserve(HUGE)
    assert tensors.n_bytes == before
    np.testing.assert_array_equal(tensors.read(states[0], 1, 5), rows)  # nothing is lost
    tensors.reserve(1000)
    np.testing.assert_array_equal(tensors.read(states[0], 1, 5), rows)


def test_keys_and_values_grow_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes refuse a cache whose keys have another number of positions than its values."""
    values = [g.Input("tokens"), g.Input("positions")]
    states = [
        StateTensor(f"{i}.{kind}", (2, 4), F32, True, values[i], None) for i in (0, 1) for kind in ("key", "value")
    ]
    tensors = SlotTensors(PROVIDERS["cpu"].device(), states, 1, 4096)
    zeros, calls = type(tensors.device).zeros, []

    def fail_at_last(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == len(states):
            raise Unavailable("no memory left")
        return zeros(*args)

    with monkeypatch.context() as patch:
        patch.setattr(type(tensors.device), "zeros", fail_at_last)
        with pytest.raises(Unavailable, match="the CPU has not enough memory"):
            tensors.reserve(512)
    assert [value.shape()[2] for value in tensors.values.values()] == [512, 512, 256, 256]
    tensors.reserve(512)
    assert [value.shape()[2] for value in tensors.values.values()] == [512] * 4


def test_bindings_get_addresses_so_that_they_do_not_keep_tensors_that_have_grown() -> None:
    value, given = g.Input("tokens"), []

    class Binding:
        def bind_input(self, name: str, kind: str, number: int, dtype: Any, shape: Any, address: int) -> None:
            given.append((name, list(shape), address))

        bind_output = bind_input

    states = [
        StateTensor("0.key", (2, 4), F32, True, value, is_paged=True),
        StateTensor("1.key", (2, 4), F32, True, value),
        StateTensor("2.state", (3,), F32, False, value),
    ]
    tensors = SlotTensors(PROVIDERS["cpu"].device(), states, 3, 256)
    paged, key, state = (tensors.values[one.name].data_ptr() for one in states)
    binding: Any = Binding()
    tensors.bind(binding, 0, 3)
    tensors.bind(binding, 1, 2)
    whole = [([4, 256, 2, 4], paged), ([3, 2, 256, 4], key), ([3, 3], state)]
    part = [([4, 256, 2, 4], paged), ([2, 2, 256, 4], key + 2 * 256 * 4 * 4), ([2, 3], state + 3 * 4)]
    names = ["0.key", "1.key", "2.state"]
    expected = [(n, *one) for places in (whole, part) for n, one in zip(names, places, strict=True)]
    assert given == [(f"{when}.{n}", *one) for n, *one in expected for when in ("past", "present")]


def test_onnxruntime_out_of_memory_is_recognised() -> None:
    def build(b: ModelBuilder) -> None:
        b.node("Expand", b.floats(1.0), b.input("shape", np.int64, [1]), outputs=["y"])
        b.output("y", F32, ["n"])

    session = PROVIDERS["cpu"].device().session(build, F32)
    with pytest.raises(Exception, match=".") as caught:
        session.run(None, {"shape": np.array([HUGE])})
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("Non-zero status code returned while running Add node"))


def test_slot_goes_on_after_a_batch_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    backend = OnnxBackend(make_context(path, extra={"onnx_provider": "cpu"}))
    expected = backend.forward(batch((0, 0, TOKENS)))[-1]
    backend.truncate(0, 7)

    def run(*args: object) -> None:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9")

    with monkeypatch.context() as patch:
        patch.setattr(type(backend._session), "run_with_iobinding", run)
        with pytest.raises(Unavailable, match="not enough memory to compute 1 tokens at once, beside .* a smaller -ub"):
            backend.forward(batch((0, 7, TOKENS[7:])))
    np.testing.assert_allclose(backend.forward(batch((0, 7, TOKENS[7:])))[0], expected, atol=1e-3)
    backend.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_in_memory_once_and_a_few_times_while_they_are_loaded(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", n_embd=1024, n_ff=4096, n_layer=8, n_head=8, n_head_kv=8, types="Q8_0")
    code = (
        "import sys; from pathlib import Path\n"
        "from llamafw_backends.onnx.backend import OnnxBackend\n"
        "from support.numba_backend import make_context\n"
        "def used(kind='RssAnon:'):\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split(kind)[1].split()[0]) * 1024\n"
        "context = make_context(Path(sys.argv[1]), extra={'onnx_provider': 'cpu'})\n"
        "before, peak = used(), used('VmHWM:')\n"
        "backend = OnnxBackend(context)\n"
        "print(used() - before - backend.describe()['cache_bytes'], backend.describe()['weight_bytes'])\n"
        "print(used('VmHWM:') - peak)\n"
        "backend.close()\n"
        "print(used() - before)"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, "-c", code, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    grown, n_weights, most, kept = map(int, run.stdout.split())
    assert n_weights > 100e6
    assert grown < 1.4 * n_weights
    assert kept < 0.4 * n_weights  # after the backend is closed, as in a server that sleeps
    assert most < 2.8 * n_weights + path.stat().st_size  # pages of the file are counted too
