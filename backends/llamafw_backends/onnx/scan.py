"""Builds the ONNX operator Scan, which runs a small graph once per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from llamafw_backends.onnx.model_builder import ModelBuilder

Step = Mapping[str, str]
"""The names of one step's rows, in the graph of a step."""


def add_scan(
    b: ModelBuilder,
    state: str,
    rows: Mapping[str, str],
    is_token: str,
    step: Callable[[ModelBuilder, str, Step], tuple[str, str]],
) -> tuple[str, str]:
    """Add a Scan; return the names of the last state and of the outputs of all steps.

    Parameters
    ----------
    b : ModelBuilder
        The model.
    state : str
        The state before the first step, ``(n_active, …)``.
    rows : mapping of str to str
        What each step reads: rows with an axis of steps first.
    is_token : str
        Whether each step is a token of each slot, ``(n_steps, n_active, 1, …)`` bool; otherwise the state stays.
    step : callable
        Adds the nodes of a step to the builder of its graph; returns the new state and the output.
    """
    body = b.inner("Scan")
    before = body.input(f"{body.prefix}state", b.float_type, None)
    names = {name: body.input(f"{body.prefix}{name}", b.float_type, None) for name in rows}
    active = body.input(f"{body.prefix}is_token", np.bool_, None)
    after, y = step(body, before, names)
    new = body.node("Where", active, after, before)
    output = body.node("Identity", y)
    for name in (new, output):
        body.output(name, b.float_type, None)
    return b.node(  # type: ignore[no-any-return]  # a tuple of two names
        "Scan",
        state,
        *rows.values(),
        is_token,
        n_outputs=2,
        body=body.subgraph([before, *names.values(), active]),
        num_scan_inputs=len(rows) + 1,
    )
