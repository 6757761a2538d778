"""What the names of recurrent layers have in common."""

from __future__ import annotations

from llamafw.checkpoints.changes import NegativeExp, Reshape, Squeeze
from llamafw.checkpoints.rules import Rule, renames, rule


def mamba_rules(mixer: str) -> list[Rule]:
    """Return the rules for a Mamba-1 block; ``mixer`` precedes the names of its parameters."""
    names = {"ssm_in": "in_proj", "ssm_x": "x_proj", "ssm_dt": "dt_proj", "ssm_out": "out_proj"}
    return [
        *renames(names, mixer),
        rule("blk.{i}.ssm_conv1d.weight", f"{mixer}.conv1d.weight", Squeeze()),
        rule("blk.{i}.ssm_conv1d.bias", f"{mixer}.conv1d.bias"),
        rule("blk.{i}.ssm_a", f"{mixer}.A_log", NegativeExp()),
        rule("blk.{i}.ssm_d", f"{mixer}.D"),
    ]


def mamba2_rules(mixer: str, n_group: int) -> list[Rule]:
    """Return the rules for a Mamba-2 block.

    Parameters
    ----------
    mixer : str
        What precedes the names of its parameters: ``"model.layers.{i}.mixer"``.
    n_group : int
        Number of groups, each with a norm of its own.
    """
    column, flat = (-1, 1), (-1,)
    return [
        rule("blk.{i}.ssm_in.{part}", f"{mixer}.in_proj.{{part}}"),
        rule("blk.{i}.ssm_conv1d.weight", f"{mixer}.conv1d.weight", Squeeze()),
        rule("blk.{i}.ssm_conv1d.bias", f"{mixer}.conv1d.bias"),
        rule("blk.{i}.ssm_dt.bias", f"{mixer}.dt_bias"),
        rule("blk.{i}.ssm_a", f"{mixer}.A_log", NegativeExp(), Reshape(column, flat)),
        rule("blk.{i}.ssm_d", f"{mixer}.D", Reshape(column, flat)),
        rule("blk.{i}.ssm_norm.weight", f"{mixer}.norm.weight", Reshape((n_group, -1), flat)),
        rule("blk.{i}.ssm_out.{part}", f"{mixer}.out_proj.{{part}}"),
    ]
