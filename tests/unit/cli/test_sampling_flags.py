"""Flags that set how every request is sampled, and what comes of them."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw import Settings, SettingsError
from unit.cli.test_settings import parse


@pytest.mark.inventory("C-072", "C-074", "D-06")
@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (("--samplers", "top_k;temperature"), ("top_k", "temperature")),
        (("--samplers", "top-k; nucleus;typical;tfs;temp"), ("top_k", "top_p", "typ_p", "tfs_z", "temperature")),
        (("--sampling-seq", "kfypmt"), ("penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature")),
        (("--sampling-seq", "ket"), ("top_k", "penalties", "temperature")),
        (("--sampling-seq", ""), ("penalties",)),
        ((), None),
    ],
)
def test_names_and_letters(flags: tuple[str, ...], names: tuple[str, ...] | None) -> None:
    assert parse(*flags).sampler_names() == names


@pytest.mark.inventory("C-074")
def test_an_unknown_letter() -> None:
    with pytest.raises(SettingsError, match="--sampling-seq: 'z' is none of"):
        parse("--sampling-seq", "kz").sampler_names()


@pytest.mark.inventory("C-092")
def test_biases() -> None:
    found = parse("-l", "15+1.5", "--logit-bias", "7-2", "-l", "7-1", "-l", "9-inf").biases()
    assert found == {15: 1.5, 7: -3, 9: -float("inf")}
    for wrong in ("x+1", "15", "15*2", "-3+1", "15+"):
        with pytest.raises(SettingsError, match="--logit-bias"):
            Settings(logit_bias=(wrong,)).biases()


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        pytest.param(("--tfs", "0.5"), "tfs_z", 0.5, marks=pytest.mark.inventory("C-081")),
        pytest.param(("--mirostat", "2"), "mirostat", 2, marks=pytest.mark.inventory("C-089")),
        pytest.param(("--mirostat-lr", "0.3"), "mirostat_eta", 0.3, marks=pytest.mark.inventory("C-090")),
        pytest.param(("--mirostat-ent", "4"), "mirostat_tau", 4, marks=pytest.mark.inventory("C-091")),
        pytest.param(("--seed", "5"), "seed", 5, marks=pytest.mark.inventory("C-073")),
        pytest.param(("--ignore-eos",), "ignore_eos", True, marks=pytest.mark.inventory("C-075")),
        pytest.param(("--penalize-nl",), "penalize_nl", True, marks=pytest.mark.inventory("C-076")),
        pytest.param(("--temp", "0.1"), "temperature", 0.1, marks=pytest.mark.inventory("C-077")),
        pytest.param(("--temp", "-1"), "temperature", -1, marks=pytest.mark.inventory("C-077")),
        pytest.param(("--top-k", "7"), "top_k", 7, marks=pytest.mark.inventory("C-078")),
        pytest.param(("--top-p", "0.7"), "top_p", 0.7, marks=pytest.mark.inventory("C-079")),
        pytest.param(("--min-p", "0.2"), "min_p", 0.2, marks=pytest.mark.inventory("C-080")),
        pytest.param(("--typical", "0.4"), "typical_p", 0.4, marks=pytest.mark.inventory("C-082")),
        pytest.param(("--repeat-last-n", "9"), "repeat_last_n", 9, marks=pytest.mark.inventory("C-083")),
        pytest.param(("--repeat-penalty", "1.2"), "repeat_penalty", 1.2, marks=pytest.mark.inventory("C-084")),
        pytest.param(("--presence-penalty", "0.6"), "presence_penalty", 0.6, marks=pytest.mark.inventory("C-085")),
        pytest.param(("--frequency-penalty", "0.7"), "frequency_penalty", 0.7, marks=pytest.mark.inventory("C-086")),
        pytest.param(("--dynatemp-range", "0.3"), "dynatemp_range", 0.3, marks=pytest.mark.inventory("C-087")),
        pytest.param(("--dynatemp-exp", "2"), "dynatemp_exponent", 2, marks=pytest.mark.inventory("C-088")),
    ],
)
async def test_a_flag_is_the_default_of_a_field(flags: tuple[str, ...], field: str, value: Any) -> None:
    assert parse(*flags).request_defaults()[field] == value
