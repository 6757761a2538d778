"""``--override-kv`` changes and adds metadata, and refuses malformed values."""

from __future__ import annotations

import numpy as np
import pytest

from llamafw import SettingsError
from llamafw.models.overrides import apply_overrides, parse_override

METADATA = {"n": 1, "x": 1.5, "flag": True, "name": "a", "list": ["a"], "ids": np.array([1]), "general.alignment": 32}


@pytest.mark.inventory("C-053")
@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("n=int:7", "n", 7),
        ("n=int:-7", "n", -7),
        ("x=float:7", "x", 7.0),
        ("x=float:1e-5", "x", 1e-5),
        ("flag=bool:false", "flag", False),
        ("flag=bool:true", "flag", True),
        ("name=str:b", "name", "b"),
        ("name=str:", "name", ""),
        ("name=str:a=b:c", "name", "a=b:c"),
        ("new.key=int:3", "new.key", 3),
    ],
)
def test_an_override_replaces_or_adds_a_value(text: str, key: str, value: object) -> None:
    changed = apply_overrides(METADATA, [text])
    assert changed[key] == value
    assert type(changed[key]) is type(value)
    assert {name: METADATA[name] for name in METADATA if name != key} == {
        name: changed[name] for name in METADATA if name != key
    }


def test_the_last_override_of_a_key_wins() -> None:
    assert apply_overrides(METADATA, ["n=int:2", "n=int:3"])["n"] == 3


@pytest.mark.inventory("C-053")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must look like KEY=TYPE:VALUE"),
        ("n", "must look like KEY=TYPE:VALUE"),
        ("n=7", "must look like KEY=TYPE:VALUE"),
        ("=int:7", "must look like KEY=TYPE:VALUE"),
        ("n=uint:7", "the type 'uint' is not one of int, float, bool, str"),
        ("n=int:7.5", "'7.5' is not a valid int"),
        ("n=int:", "'' is not a valid int"),
        ("n=int:9223372036854775808", "is not a valid int"),
        ("n=int:" + "9" * 10_000, "is not a valid int"),
        ("n=int:١", "is not a valid int"),
        ("x=float:nan", "'nan' is not a valid float"),
        ("x=float:1e999", "'1e999' is not a valid float"),
        ("flag=bool:1", "'1' is not a valid bool"),
        ("n=float:1", "n is int in the model, not float"),
        ("flag=int:1", "flag is bool in the model, not int"),
        ("list=str:a", "list is an array in the model, not str"),
        ("ids=int:1", "ids is an array in the model, not int"),
        ("general.alignment=int:64", "general.alignment describes the file"),
    ],
)
def test_invalid_overrides_are_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        apply_overrides(METADATA, [text])
    assert str(caught.value).startswith(f"--override-kv {text}: ")
    assert message in str(caught.value)


def test_a_value_may_contain_separators() -> None:
    assert parse_override("k=str:a:b=c") == ("k", "a:b=c")
