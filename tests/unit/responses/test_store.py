"""The store is bounded, keeps what conversations need, and separates users."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw_plugins.responses.store import ResponseStore, StoredResponse


def item(id: str, text: str = "") -> dict[str, Any]:
    return {"id": id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def add(
    store: ResponseStore, id: str, *, owner: str | None = None, text: str = "", after: StoredResponse | None = None
) -> StoredResponse:
    finished = {"id": id, "output": [item(f"out_{id}", text)]}
    stored = StoredResponse(owner, [item(f"in_{id}")], after, finished)
    store.add(stored)
    return stored


def test_oldest_response_is_forgotten_first() -> None:
    store = ResponseStore(2, 2**20)
    for id in "abc":
        add(store, id)
    assert [store.get(id, None) is not None for id in "abc"] == [False, True, True]


def test_use_of_a_response_keeps_it() -> None:
    store = ResponseStore(2, 2**20)
    add(store, "a")
    add(store, "b")
    store.get("a", None)
    add(store, "c")
    assert [store.get(id, None) is not None for id in "abc"] == [True, False, True]


def test_size_is_limited() -> None:
    store = ResponseStore(100, 10_000)
    for id in "abcdefghij":
        add(store, id, text="x" * 3000)
        assert store.n_bytes <= 10_000
    assert len(store) == 3
    add(store, "large", text="x" * 20_000)
    assert (len(store), store.n_bytes) == (0, 0)


def test_store_of_size_0_keeps_nothing() -> None:
    store = ResponseStore(0, 2**20)
    add(store, "a")
    assert store.get("a", None) is None


def test_users_see_only_their_own_responses() -> None:
    store = ResponseStore(9, 2**20)
    add(store, "a", owner="one")
    for other in ("two", None):
        assert store.get("a", other) is None
        assert store.find_item("in_a", other) is None
    assert store.get("a", "one") is not None
    assert store.find_item("out_a", "one") == item("out_a")


def test_history_has_all_items_in_order() -> None:
    store = ResponseStore(9, 2**20)
    last = None
    for id in "abc":
        last = add(store, id, after=last)
    assert last is not None
    assert [part["id"] for part in last.history()] == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    assert [part["id"] for part in last.input()] == ["in_a", "out_a", "in_b", "out_b", "in_c"]


def test_long_chains_need_no_recursion() -> None:
    store = ResponseStore(1, 2**30)
    last = None
    for i in range(5000):
        last = add(store, str(i), after=last)
    assert last is not None
    assert len(last.history()) == 10_000
    store.remove("4999")
    assert (len(store), store.n_bytes) == (0, 0)


def test_continued_responses_stay_until_the_last_is_removed() -> None:
    store = ResponseStore(9, 2**20)
    first = add(store, "a")
    size = store.n_bytes
    second = add(store, "b", after=first)
    store.remove("a")
    assert store.get("a", None) is None
    assert store.n_bytes > size
    assert [part["id"] for part in second.history()] == ["in_a", "out_a", "in_b", "out_b"]
    store.remove("b")
    assert store.n_bytes == 0
    assert store.find_item("in_a", None) is None


def test_response_that_was_removed_while_another_continued_it_is_counted_again() -> None:
    store = ResponseStore(9, 2**20)
    first = add(store, "a", after=add(store, "0"))
    store.remove("0")
    size = store.n_bytes
    store.remove("a")
    assert store.n_bytes == 0

    second = add(store, "b", after=first)  # its request was read before
    assert store.n_bytes > size
    assert store.find_item("in_0", None) is not None
    assert [part["id"] for part in second.history()][::2] == ["in_0", "in_a", "in_b"]
    store.remove("b")
    assert store.n_bytes == 0
    assert [store.find_item(f"in_{id}", None) for id in "0ab"] == [None, None, None]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_item_that_two_responses_have_is_found_while_one_exists(order: str) -> None:
    store = ResponseStore(9, 2**20)
    shared = item("shared")
    for id in "ab":
        store.add(StoredResponse(None, [shared], None, {"id": id, "output": []}))
    store.remove(order[0])
    assert store.find_item("shared", None) is shared
    store.remove(order[1])
    assert store.find_item("shared", None) is None
