"""Divides the tokens that the engine computes among users.

The method is the virtual token counter of Sheng et al., "Fairness in serving large language models" (OSDI 2024,
https://arxiv.org/abs/2401.00588): each user has a counter of the tokens that were computed for it, and of those that
wait, the user with the smallest counter is next. A token that is generated counts twice as much as one of a prompt.
A user who had no requests for a while must not be ahead of all others. The counter of a user who comes back is
therefore at least the virtual time, as in weighted fair queueing: the virtual time grows by each token's cost, divided
by the number of users with requests (Demers, Keshav and Shenker, 1989). So a user's requests are served in finite time,
however many new users arrive.

There are two levels: keys share the engine, and the end users of a key share what the key gets.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from llamafw.types import Sender

PROMPT_COST = 1.0
"""Cost of a prompt token that is evaluated."""

RESPONSE_COST = 2.0
"""Cost of a generated token."""

_MAX_IDLE = 4096  # users without requests whose counters are kept


@dataclass(slots=True)
class _Account:
    """What one user has received."""

    counter: float = 0.0
    n_requests: int = 0  # that wait or run


class Group:
    """Users who share something.

    Users are any strings. If there are too many users without requests, one of them is forgotten.
    """

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()  # the last to become idle is at the end
        self._now = 0.0  # virtual time
        self._n_sharing = 0  # users with requests

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, user: str) -> None:
        """Record a request of a user."""
        account = self._accounts.setdefault(user, _Account())
        if not account.n_requests:
            account.counter = max(account.counter, self._now)
            self._n_sharing += 1
        account.n_requests += 1

    def leave(self, user: str) -> bool:
        """Record the end of a request; return whether it was the user's last one."""
        account = self._accounts[user]
        account.n_requests -= 1
        if account.n_requests:
            return False
        self._n_sharing -= 1
        self._accounts.move_to_end(user)
        if len(self._accounts) - self._n_sharing > _MAX_IDLE:
            del self._accounts[next(name for name, other in self._accounts.items() if not other.n_requests)]
        return True

    def charge(self, user: str, cost: float) -> None:
        """Record what was computed for a user who has requests."""
        self._accounts[user].counter += cost
        self._now += cost / self._n_sharing

    def counter(self, user: str) -> float:
        """Return what a user who has requests has received; the smallest number is next."""
        return self._accounts[user].counter


class FairShares:
    """The shares of keys, and of the end users of each key."""

    def __init__(self) -> None:
        self._keys = Group()
        self._users: dict[str, Group] = {}  # by key

    def enter(self, sender: Sender) -> None:
        """Record that a request has arrived."""
        self._keys.enter(sender.key)
        self._users.setdefault(sender.key, Group()).enter(sender.user)

    def leave(self, sender: Sender) -> None:
        """Record that a request has ended."""
        self._users[sender.key].leave(sender.user)
        if self._keys.leave(sender.key):
            del self._users[sender.key]  # when a key has no requests, its users' shares are settled

    def charge(self, sender: Sender, cost: float) -> None:
        """Record what was computed for a request."""
        self._keys.charge(sender.key, cost)
        self._users[sender.key].charge(sender.user, cost)

    def rank(self, sender: Sender) -> tuple[float, float]:
        """Return the sort key of a waiting request: the request with the smallest one is next."""
        return self._keys.counter(sender.key), self._users[sender.key].counter(sender.user)
