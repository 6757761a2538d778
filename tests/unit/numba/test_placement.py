"""Where the operating system really runs the threads."""

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
from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.engine.backend_options import backend_options
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw_backends.numba_cpu import placement
from llamafw_backends.numba_cpu.cache import Compiler
from llamafw_backends.numba_cpu.memory import Arena
from llamafw_backends.numba_cpu.placement import Placement, nodes
from llamafw_backends.numba_cpu.threads import POOL, Pool
from support.numba import batch, opened
from support.tiny import write_tiny_gguf

THERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(sys.platform != "linux" or len(THERE) < 2, reason="wants Linux and two processors")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Let this thread run where, and as urgently as, it did before."""
    yield
    os.sched_setaffinity(0, THERE)


def options(*argv: str) -> Any:
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    return backend_options(settings_from(parser.parse(argv), {}), 64)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(3, Compiler(lambda line: None))
    yield made
    made.close()


def place(pool: Pool, *argv: str, prompts: bool = False, log: Callable[[str], None] = lambda line: None) -> list[Any]:
    """Place the threads as flags say; return the processors of the caller and the workers."""
    os.sched_setaffinity(0, THERE)  # what there is, is what the caller may use
    made = Placement.of(pool, options(*argv), log)
    assert made is not None
    made.place(prompts=prompts)
    return [os.sched_getaffinity(thread) for thread in (threading.get_native_id(), *pool.workers)]


def test_nothing_is_done_unless_asked_for(pool: Pool) -> None:
    assert Placement.of(pool, options("-t", "2"), print) is None


@pytest.mark.inventory("C-006", "C-007")
def test_threads_run_where_mask_and_range_allow(pool: Pool) -> None:
    first, second = THERE[:2]
    assert place(pool, "-C", hex(1 << second)) == [{second}] * 3
    assert place(pool, "-Cr", f"{first}-{first}") == [{first}] * 3
    assert place(pool, "-C", f"{1 << first:X}", "--cpu-range", f"{second}-{second}") == [{first, second}] * 3


@pytest.mark.inventory("C-008")
def test_strict_gives_each_thread_one_processor(pool: Pool) -> None:
    first, second, *_ = THERE
    mask = hex(1 << first | 1 << second)
    assert place(pool, "-C", mask, "--cpu-strict", "1") == [{first}, {second}, {first}]
    assert place(pool, "-C", mask, "--cpu-strict", "0") == [{first, second}] * 3
    assert all(len(cpus) == 1 for cpus in place(pool, "--cpu-strict", "1"))


@pytest.mark.inventory("C-011", "C-012", "C-013")
def test_prompts_may_run_elsewhere(pool: Pool) -> None:
    first, second = THERE[:2]
    argv = ["-C", hex(1 << first), "-Cb", hex(1 << second)]
    assert place(pool, *argv) == [{first}] * 3
    assert place(pool, *argv, prompts=True) == [{second}] * 3
    assert place(pool, "-C", hex(1 << first), prompts=True) == [{first}] * 3  # the same, if nothing else is said
    both = ["-C", hex(1 << first), "-Crb", f"{first}-{second}"]
    assert place(pool, *both, prompts=True)[0] >= {first, second}
    assert place(pool, *both, "--cpu-strict-batch", "1", prompts=True)[:2] == [{first}, {first + 1}]
    assert place(pool, *both, "--cpu-strict-batch", "1")[:2] == [{first}] * 2


@pytest.mark.inventory("C-009", "C-014")
def test_priority(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    """What the system is asked for: to be given it takes rights that tests may not have."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *a: asked.append(a[:2]))
    monkeypatch.setattr(os, "setpriority", lambda which, thread, nice: asked.append((thread, nice)))
    place(pool, "--prio", "2", "--prio-batch", "3")
    me = threading.get_native_id()
    threads = [me, *pool.workers]
    assert asked == [call for t in threads for call in ((t, os.SCHED_OTHER), (t, -10))]
    asked.clear()
    place(pool, "--prio", "2", "--prio-batch", "3", prompts=True)
    assert asked == [(thread, os.SCHED_FIFO) for thread in threads]


@pytest.mark.inventory("C-009")
def test_low_priority_needs_no_rights(pool: Pool) -> None:
    made = Placement.of(pool, options("--prio", "-1"), print)
    assert made is not None
    found: list[int] = []

    def run() -> None:  # on a thread of its own: nobody may get back from there
        made.place(prompts=False)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [10]
    assert [os.getpriority(os.PRIO_PROCESS, worker) for worker in pool.workers] == [10, 10]


def test_a_priority_that_is_not_allowed_is_told_once(monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    lines: list[str] = []
    made = Placement.of(pool, options("--prio", "1", "--prio-batch", "2"), lines.append)
    assert made is not None
    for prompts in (False, True, False):
        made.place(prompts=prompts)
    assert len(lines) == 1
    assert "Operation not permitted" in lines[0]


@pytest.mark.inventory("C-010", "C-015")
def test_poll_is_how_often_threads_look_before_they_sleep(pool: Pool) -> None:
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
def test_what_is_no_mask_or_range_is_refused(flags: list[str]) -> None:
    with pytest.raises(SettingsError, match="^--cpu-.* is no "):
        options(*flags)


def test_processors_that_are_not_there_are_refused(pool: Pool) -> None:
    with pytest.raises(SettingsError, match="none of the processors 4000-4001 may be used; there are"):
        Placement.of(pool, options("-Cr", "4000-4001"), print)


@pytest.mark.inventory("C-047")
def test_numa(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pool: Pool) -> None:
    first, second = THERE[:2]
    for i, cpu in enumerate((first, second)):
        (tmp_path / f"node{i}").mkdir()
        (tmp_path / f"node{i}/cpulist").write_text(f"{cpu},9000-9001\n")
    assert nodes(None, tmp_path) == []
    assert nodes("distribute", tmp_path) == [{first}, {second}]
    assert nodes("numactl", tmp_path) == [set(THERE)]
    os.sched_setaffinity(0, {second})
    os.sched_yield()
    assert nodes("isolate", tmp_path) == [{second}]
    os.sched_setaffinity(0, THERE)
    monkeypatch.setattr(placement, "NODES", tmp_path)
    monkeypatch.setattr(nodes, "__defaults__", (tmp_path,))
    assert place(pool, "--numa", "distribute") == [{first}, {second}, {first}]


@pytest.mark.inventory("C-004", "C-005", "C-006", "C-010")
def test_a_model_runs_where_it_may(tmp_path: Path) -> None:
    """The whole way: same logits, threads bound, on the thread that calls."""
    path, cpu = write_tiny_gguf(tmp_path / "m.gguf"), THERE[1]
    with opened(path) as backend:
        expected = backend.forward(batch((0, 0, [1, 2, 3]))).copy()
    threads = ThreadOptions(cpus=frozenset({cpu}), poll=0)
    with opened(path, n_threads=2, n_threads_batch=3, threads=threads, threads_batch=threads) as backend:
        assert (backend.describe()["n_threads"], backend.describe()["n_threads_batch"]) == (2, 3)
        assert len(backend._pool.workers) == 2
        os.sched_setaffinity(0, THERE)
        found: list[Any] = []

        def run() -> None:
            found.extend((backend.forward(batch((0, 0, [1, 2, 3]))).copy(), os.sched_getaffinity(0)))

        engine = threading.Thread(target=run)
        engine.start()
        engine.join()
        np.testing.assert_array_equal(found[0], expected)
        assert found[1] == {cpu}
        assert [os.sched_getaffinity(worker) for worker in backend._pool.workers] == [{cpu}] * 2


@pytest.mark.inventory("C-045")
def test_weights_are_locked_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmLck:")[2].split()[0])

    assert (options().lock_memory, options("--mlock").lock_memory) == (False, True)
    lines: list[str] = []
    before = locked()
    with opened(write_tiny_gguf(tmp_path / "m.gguf"), lines, lock_memory=True):
        assert locked() > before or any("cannot be locked" in line for line in lines)

    def refuse(self: Arena) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Arena, "lock", refuse)
    with opened(tmp_path / "m.gguf", lines, lock_memory=True):
        assert "the weights cannot be locked in memory" in "".join(lines)


@pytest.mark.inventory("C-021", "C-040", "C-048", "C-049", "C-050", "C-051")
def test_what_is_for_gpus_comes_to_backends_and_this_one_says_so(tmp_path: Path) -> None:
    found = options(*"-ngl 7 -sm row -ts 3,1 -mg 1 -nkvo -fa off".split())
    assert found.gpu == GpuOptions(7, "row", (3.0, 1.0), 1, False)
    assert found.flash_attention is False
    assert options("-fa").flash_attention is options("-fa", "on").flash_attention is True
    assert options("-ts", "1/2/1").gpu.tensor_split == (1.0, 2.0, 1.0)
    assert (options("-fa", "auto").flash_attention, options().gpu) == (None, GpuOptions())
    for wrong in (["-ts", "a"], ["-ts", "0,0"], ["-ts", "-1"], ["-fa", "maybe"], ["-sm", "x"], ["-ngl", "x"]):
        with pytest.raises(SettingsError, match="^--"):
            options(*wrong)
    lines: list[str] = []
    with opened(write_tiny_gguf(tmp_path / "m.gguf"), lines, gpu=found.gpu, flash_attention=False):
        assert "can do nothing with GpuOptions(n_layers=7" in "".join(lines)
        assert "-fa off changes nothing" in "".join(lines)


@pytest.mark.inventory("C-046")
def test_a_file_that_is_read_may_be_overwritten(tmp_path: Path) -> None:
    path, quants = write_tiny_gguf(tmp_path / "m.gguf"), Plugins().registry("quant")
    mapped, whole = read_gguf(path, quants), read_gguf(path, quants, mapped=False)
    before = {name: tensor.data.copy() for name, tensor in mapped.tensors.items()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, data in before.items():
        np.testing.assert_array_equal(whole.tensors[name].data, data)
    assert any((mapped.tensors[name].data != data).any() for name, data in before.items())
