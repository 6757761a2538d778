"""The description of a step shows what the backend runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checkpoints import Checkpoint, all_checkpoints, write
from llamafw_backends.numba_cpu import open_model
from support.numba_backend import make_context, open_backend

EXPECTED = {  # by the name of a checkpoint
    "gemma3": ("look_up token_embd.weight F32", "q normalise_rms, q rotate, k normalise_rms, k rotate", "gated"),
    "qwen3moe": ("sort 3 of 8 experts", "columns of experts blk.0.ffn_gate_exps.weight F32", "weighted_sum_of_pairs"),
    "gemma4-per-layer-shared": ("which it only reads",),
    "phi3": ("matrix blk.0.attn_qkv.weight[0:", "columns blk.0.ffn_up.weight[0:"),
    "nemotron_h": ("convolution, ", "linear attention, "),
}
CHECKPOINTS = [one for one in all_checkpoints() if one.name in EXPECTED]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_every_phase_and_buffer_is_described(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = write(checkpoint, tmp_path / "model.gguf")
    text = open_model.describe_step(make_context(path))
    for expected in EXPECTED[checkpoint.name]:
        assert expected in text

    phases, buffers = text.split("\nbuffer ")
    numbers = [int(number) for number in re.findall(r"^ {,4}(\d+)  ", phases, re.M)]
    with open_backend(path) as backend:
        assert numbers == list(range(len(backend._steps.logits.phases)))

    names = set(re.findall(r"^(b\d+) ", buffers, re.M))
    assert len(names) > 5
    assert set(re.findall(r"\bb\d+\b", phases)) == names
    assert [line for line in phases.splitlines() if line.endswith("→ result")] == [phases.rstrip().splitlines()[-1]]
