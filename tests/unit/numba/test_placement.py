"""Threads run on the processors and with the priority that the options name."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import GpuOptions, SettingsError, ThreadOptions
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.engine.backend_options import backend_options
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.batches import batch
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.memory import Arena
from llamafw_backends.numba_cpu.placement import Placement, numa_nodes
from llamafw_backends.numba_cpu.threads import POOL, Pool
from support.numba_backend import open_backend

ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(sys.platform != "linux" or len(ALLOWED) < 2, reason="needs Linux and two processors")


@pytest.fixture(autouse=True)
def restore_affinity() -> Iterator[None]:
    """Let this thread run on all processors again after each test."""
    yield
    os.sched_setaffinity(0, ALLOWED)


def options(*argv: str) -> Any:
    """Return the `BackendOptions` of a command line."""
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    return backend_options(settings_from(parser.parse(argv), {}), 64)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Three threads: the caller and two workers."""
    pool = Pool(3, KernelCompiler(lambda line: None))
    yield pool
    pool.close()


def place(pool: Pool, *argv: str, prompts: bool = False, log: Callable[[str], None] = lambda line: None) -> list[Any]:
    """Place the threads as flags say; return the processors of the caller and of each worker."""
    os.sched_setaffinity(0, ALLOWED)  # because processors that the caller may not use are ignored
    placement = Placement.from_options(pool, options(*argv), log)
    assert placement is not None
    placement.place(prompts=prompts)
    return [os.sched_getaffinity(thread) for thread in (threading.get_native_id(), *pool.workers)]


def test_threads_are_not_placed_without_options(pool: Pool) -> None:
    assert Placement.from_options(pool, options("-t", "2"), print) is None


@pytest.mark.inventory("C-006", "C-007")
def test_threads_run_on_the_processors_of_mask_and_range(pool: Pool) -> None:
    first, second = ALLOWED[:2]
    assert place(pool, "-C", hex(1 << second)) == [{second}] * 3
    assert place(pool, "-Cr", f"{first}-{first}") == [{first}] * 3
    assert place(pool, "-C", f"{1 << first:X}", "--cpu-range", f"{second}-{second}") == [{first, second}] * 3


@pytest.mark.inventory("C-008")
def test_strict_binds_each_thread_to_one_processor(pool: Pool) -> None:
    first, second, *_ = ALLOWED
    mask = hex(1 << first | 1 << second)
    assert place(pool, "-C", mask, "--cpu-strict", "1") == [{first}, {second}, {first}]
    assert place(pool, "-C", mask, "--cpu-strict", "0") == [{first, second}] * 3
    assert [len(cpus) for cpus in place(pool, "--cpu-strict", "1")] == [1] * 3


@pytest.mark.inventory("C-011", "C-012", "C-013")
def test_prompts_have_their_own_processors(pool: Pool) -> None:
    first, second = ALLOWED[:2]
    argv = ["-C", hex(1 << first), "-Cb", hex(1 << second)]
    assert place(pool, *argv) == [{first}] * 3
    assert place(pool, *argv, prompts=True) == [{second}] * 3
    assert place(pool, "-C", hex(1 << first), prompts=True) == [{first}] * 3  # the default is the same
    both = ["-C", hex(1 << first), "-Crb", f"{first}-{second}"]
    assert place(pool, *both, prompts=True)[0] >= {first, second}
    assert place(pool, *both, "--cpu-strict-batch", "1", prompts=True)[:2] == [{first}, {first + 1}]
    assert place(pool, *both, "--cpu-strict-batch", "1")[:2] == [{first}] * 2


@pytest.mark.inventory("C-009", "C-014")
def test_priority_is_set_for_every_thread(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    """Check only the arguments of the system calls, because tests may not have the rights for them."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *a: calls.append(a[:2]))
    monkeypatch.setattr(os, "setpriority", lambda which, thread, nice: calls.append((thread, nice)))

    place(pool, "--prio", "2", "--prio-batch", "3")
    threads = [threading.get_native_id(), *pool.workers]
    assert calls == [call for t in threads for call in ((t, os.SCHED_OTHER), (t, -10))]

    calls.clear()
    place(pool, "--prio", "2", "--prio-batch", "3", prompts=True)
    assert calls == [(thread, os.SCHED_FIFO) for thread in threads]


@pytest.mark.inventory("C-009")
def test_low_priority_needs_no_rights(pool: Pool) -> None:
    placement = Placement.from_options(pool, options("--prio", "-1"), print)
    assert placement is not None
    niceness: list[int] = []

    def run() -> None:  # on a separate thread, because a priority cannot be raised again
        placement.place(prompts=False)
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert niceness == [10]
    assert [os.getpriority(os.PRIO_PROCESS, worker) for worker in pool.workers] == [10, 10]


def test_refused_priority_is_logged_once(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    lines: list[str] = []
    placement = Placement.from_options(pool, options("--prio", "1", "--prio-batch", "2"), lines.append)
    assert placement is not None
    for prompts in (False, True, False):
        placement.place(prompts=prompts)
    assert len(lines) == 1
    assert "Operation not permitted" in lines[0]


@pytest.mark.inventory("C-010", "C-015")
def test_poll_sets_how_long_threads_spin(pool: Pool) -> None:
    def spins() -> int:
        return int(np.frombuffer(pool._memory, POOL, 1)["spins"][0])

    place(pool, "--poll", "0", "--poll-batch", "100")
    assert spins() == 0
    place(pool, "--poll", "0", "--poll-batch", "100", prompts=True)
    assert spins() == 6000
    place(pool, "--poll", "7", prompts=True)
    assert spins() == 420


@pytest.mark.parametrize(
    "flags",
    [
        ["-C", "0"],
        ["-C", "xyz"],
        ["-C", ""],
        ["-Cr", "3-1"],
        ["-Cr", "-"],
        ["-Cr", "1"],
        ["-Cr", "0-99999"],
        ["-Cb", "0x"],
        ["-Crb", "a-b"],
    ],
)
def test_invalid_masks_and_ranges_are_refused(flags: list[str]) -> None:
    with pytest.raises(SettingsError, match="^--cpu-.* is not a (hexadecimal mask|range) of processors"):
        options(*flags)


def test_missing_processors_are_refused(pool: Pool) -> None:
    with pytest.raises(SettingsError, match="may use none of the processors 4000-4001, only"):
        Placement.from_options(pool, options("-Cr", "4000-4001"), print)


@pytest.mark.inventory("C-047")
def test_numa_nodes_are_used_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: Pool) -> None:
    first, second = ALLOWED[:2]
    for i, cpu in enumerate((first, second)):
        (tmp_path / f"node{i}").mkdir()
        (tmp_path / f"node{i}/cpulist").write_text(f"{cpu},9000-9001\n")

    assert numa_nodes(None, tmp_path) == []
    assert numa_nodes("distribute", tmp_path) == [{first}, {second}]
    assert numa_nodes("numactl", tmp_path) == [set(ALLOWED)]
    os.sched_setaffinity(0, {second})
    os.sched_yield()
    assert numa_nodes("isolate", tmp_path) == [{second}]

    os.sched_setaffinity(0, ALLOWED)
    monkeypatch.setattr(numa_nodes, "__defaults__", (tmp_path,))
    assert place(pool, "--numa", "distribute") == [{first}, {second}, {first}]


@pytest.mark.inventory("C-004", "C-005", "C-006", "C-010")
def test_backend_runs_on_the_processors_of_its_options(tmp_path: Path) -> None:
    """A backend binds its threads and the calling thread, and its logits do not change."""
    path, cpu = write_tiny_gguf(tmp_path / "m.gguf"), ALLOWED[1]
    with open_backend(path) as backend:
        expected = backend.forward(batch((0, 0, [1, 2, 3]))).copy()
    threads = ThreadOptions(cpus=frozenset({cpu}), poll=0)
    with open_backend(path, n_threads=2, n_threads_batch=3, threads=threads, threads_batch=threads) as backend:
        assert (backend.describe()["n_threads"], backend.describe()["n_threads_batch"]) == (2, 3)
        assert len(backend._pool.workers) == 2
        os.sched_setaffinity(0, ALLOWED)
        results: list[Any] = []

        def run() -> None:
            results.extend((backend.forward(batch((0, 0, [1, 2, 3]))).copy(), os.sched_getaffinity(0)))

        engine = threading.Thread(target=run)
        engine.start()
        engine.join()
        np.testing.assert_array_equal(results[0], expected)
        assert results[1] == {cpu}
        assert [os.sched_getaffinity(worker) for worker in backend._pool.workers] == [{cpu}] * 2


@pytest.mark.inventory("C-045")
def test_weights_are_locked_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked() -> int:
        """Return the kilobytes of this process that are locked."""
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmLck:")[2].split()[0])

    assert (options().lock_memory, options("--mlock").lock_memory) == (False, True)
    lines: list[str] = []
    before = locked()
    with open_backend(write_tiny_gguf(tmp_path / "m.gguf"), lines, lock_memory=True):
        assert locked() > before or any("cannot be locked" in line for line in lines)

    def refuse(self: Arena) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Arena, "lock", refuse)
    with open_backend(tmp_path / "m.gguf", lines, lock_memory=True):
        assert "the weights cannot be locked in memory" in "".join(lines)


@pytest.mark.inventory("C-021", "C-040", "C-048", "C-049", "C-050", "C-051")
def test_gpu_options_are_ignored_with_a_log_line(tmp_path: Path) -> None:
    given = options(*"-ngl 7 -sm row -ts 3,1 -mg 1 -nkvo -fa off".split())
    assert given.gpu == GpuOptions(7, "row", (3.0, 1.0), 1, False)
    assert given.flash_attention is False
    assert options("-fa").flash_attention is options("-fa", "on").flash_attention is True
    assert options("-ts", "1/2/1").gpu.tensor_split == (1.0, 2.0, 1.0)
    assert (options("-fa", "auto").flash_attention, options().gpu) == (None, GpuOptions())
    for wrong in (["-ts", "a"], ["-ts", "0,0"], ["-ts", "-1"], ["-fa", "maybe"], ["-sm", "x"], ["-ngl", "x"]):
        with pytest.raises(SettingsError, match="^--"):
            options(*wrong)

    lines: list[str] = []
    with open_backend(write_tiny_gguf(tmp_path / "m.gguf"), lines, gpu=given.gpu, flash_attention=False):
        assert "-ngl 7 -sm row -ts 3,1 -mg 1 -nkvo has no effect" in "".join(lines)
        assert "-fa off has no effect" in "".join(lines)


@pytest.mark.inventory("C-046")
def test_file_read_without_mapping_can_be_overwritten(tmp_path: Path) -> None:
    path, quants = write_tiny_gguf(tmp_path / "m.gguf"), Plugins().registry("quant")
    mapped, whole = read_gguf(path, quants), read_gguf(path, quants, mapped=False)
    before = {name: tensor.data.copy() for name, tensor in mapped.tensors.items()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, data in before.items():
        np.testing.assert_array_equal(whole.tensors[name].data, data)
    assert any((mapped.tensors[name].data != data).any() for name, data in before.items())
