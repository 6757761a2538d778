"""Order of waiting requests: priorities, aging, and fair shares; all on a simulated clock."""

from __future__ import annotations

from collections import Counter
from itertools import count
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw import Sender
from llamafw.engine.fair_shares import FairShares, Group
from support.simulated_engine import SimulatedEngine, SimulatedTask


def names(engine: SimulatedEngine) -> str:
    return "".join(task.name for task in engine.order)


def test_smaller_priorities_are_first_and_equal_ones_in_order_of_arrival() -> None:
    engine = SimulatedEngine(1)
    priorities = {"a": 0, "b": 5, "c": -3, "d": 0, "e": 5, "f": -3}
    engine.run(SimulatedTask(name, priority) for name, priority in priorities.items())
    assert names(engine) == "cfadbe"


def test_a_priority_that_waits_comes_forward_and_falls_back_after_a_start() -> None:
    engine = SimulatedEngine(1, aging=4.0)
    urgent = [SimulatedTask("u", 0, n_response=2, at=2 * i) for i in range(40)]
    late = [SimulatedTask(name, 1) for name in "vw"]
    engine.run([*urgent, *late], until=20)
    # 8 s after the last start, v and w count as 1 - 8/4 = -1; before, an urgent request that waits is first
    assert [task.started for task in late] == [8.0, 17.0]
    assert names(engine) == "uuuuvuuuuwu"


def test_many_requests_of_one_user_do_not_delay_another() -> None:
    engine = SimulatedEngine(1)
    many = [SimulatedTask("m", user="many", n_response=5) for _ in range(50)]
    few = [SimulatedTask("f", user="few", n_response=5, at=12.0) for _ in range(3)]
    engine.run([*many, *few])
    assert names(engine)[:9] == "mmmfmfmfm"


def test_shares_count_tokens_and_not_requests() -> None:
    engine = SimulatedEngine(1)
    long = [SimulatedTask("l", user="long", n_response=30) for _ in range(20)]
    short = [SimulatedTask("s", user="short", n_response=3) for _ in range(200)]
    engine.run([*long, *short], until=300)
    costs = Counter[str]()
    for task in (*long, *short):
        costs[task.name] += 2 * task.n_predicted + task.n_done
    assert abs(costs["l"] - costs["s"]) <= 61  # the cost of a long request


def test_end_users_share_what_their_key_gets() -> None:
    shares = FairShares()
    senders = [Sender(key="one", user="a"), Sender(key="one", user="b"), Sender(key="two")]
    for sender in senders:
        shares.enter(sender)
    served = Counter[tuple[str, str]]()
    for _ in range(400):
        sender = min(senders, key=shares.rank)
        shares.charge(sender, 1)
        served[sender.key, sender.user] += 1
    assert served == {("one", "a"): 100, ("one", "b"): 100, ("two", ""): 200}


def test_users_cannot_save_up_by_waiting() -> None:
    group = Group()
    group.enter("a")
    group.charge("a", 1000)
    group.enter("b")
    assert group.counter("b") == group.counter("a")


def test_new_users_are_not_always_ahead() -> None:
    group = Group()
    group.enter("waits")
    group.charge("waits", 100)  # it has had much
    for i in range(200):  # others come, one after another, each with one request
        group.enter(f"new {i}")
        if group.counter(f"new {i}") > group.counter("waits"):
            break
        group.charge(f"new {i}", 10)
        group.leave(f"new {i}")
    else:
        pytest.fail("new users are always ahead")


def test_counters_of_users_without_requests_are_dropped_at_last() -> None:
    group = Group()
    for i in range(5000):
        group.enter(str(i))
        group.leave(str(i))
    assert len(group) == 4096


@given(seed=st.integers(0, 2**32), n=st.integers(1, 60), n_slots=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_every_request_ends_and_gets_all_its_tokens(seed: int, n: int, n_slots: int) -> None:
    draw = Random(seed)
    tasks = [
        SimulatedTask(
            str(i),
            draw.randint(-3, 3),
            draw.choice("abcd"),
            n_prompt=draw.randint(1, 40),
            n_response=draw.randint(1, 12),
            at=draw.randint(0, 50),
        )
        for i in range(n)
    ]
    engine = SimulatedEngine(n_slots, aging=10.0)
    engine.run(tasks)
    assert {task.n_predicted - task.n_response for task in tasks} == {0}
    assert not engine.scheduler.running
    assert not engine.scheduler.waiting


@given(
    priority=st.integers(-3, 3),
    others=st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("abc")), min_size=4, max_size=12),
    n_slots=st.integers(1, 3),
    aging=st.sampled_from([1.0, 4.0]),
    are_new=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_no_request_starves(
    priority: int, others: list[tuple[int, str]], n_slots: int, aging: float, are_new: bool
) -> None:
    """Whatever others send, and although all slots are always busy, a request starts and ends in a time that is known.

    When another request ends, the same one comes again at once, of the same user or of a new one.
    """
    n_response, numbers = 4, count()

    def same(task: SimulatedTask) -> SimulatedTask:
        sender = task.request.sender
        user = f"new {next(numbers)}" if are_new else sender.user
        return SimulatedTask("o", sender.priority, user, n_response=n_response)

    crowd = [SimulatedTask("o", *sender, n_response=n_response) for sender in others]
    waiting = SimulatedTask("w", priority, "waits", n_prompt=100, n_response=3, at=50.0)
    engine = SimulatedEngine(n_slots, aging=aging)
    n_levels = priority + 3
    per_start = aging * (n_levels + 1) + 8 * n_response  # of a slot, for its priority; then others have come forward
    to_start = per_start * (len(others) + 2)
    engine.run([*crowd, waiting], until=50 + 4 * to_start, next_task=same)  # it may be interrupted after each token
    assert waiting.started is not None
    assert waiting.started <= 50 + to_start
    assert waiting.ended is not None


def test_an_urgent_request_waits_for_one_step_at_most() -> None:
    engine = SimulatedEngine(2)
    low = [SimulatedTask("l", 5, n_response=100) for _ in range(4)]
    urgent = [SimulatedTask("u", 0, n_response=10, at=at) for at in (20.5, 50.5)]
    engine.run([*low, *urgent])
    assert [task.started - task.arrives for task in urgent if task.started is not None] == [0.5, 0.5]
    assert {task.n_predicted for task in (*low, *urgent)} == {100, 10}
    assert sum(task.n_interruptions for task in low) == 2


def test_a_request_that_has_waited_long_is_not_interrupted() -> None:
    engine = SimulatedEngine(1, aging=3.0)
    low = SimulatedTask("l", 1, n_response=50)
    urgent = [SimulatedTask("u", 0, n_response=5, at=1 + 5 * i) for i in range(30)]
    engine.run([low, *urgent])
    assert low.n_interruptions == 1  # then it counts as more urgent than those that come
    assert low.ended == 60  # it ran for a second, waited for ten, and ran for 49


def test_interruptions_leave_time_for_progress() -> None:
    """The simulated engine has no prompt cache: after each interruption, the whole context is evaluated again."""
    engine = SimulatedEngine(1, n_batch=10)
    low = SimulatedTask("l", 1, n_prompt=200, n_response=20)  # 20 steps for the prompt
    urgent = [SimulatedTask("u", 0, at=15.0 * i) for i in range(1, 100)]
    engine.run([low, *urgent], until=1000)
    assert low.ended is not None
