"""Keep responses in memory, so that they can be continued, retrieved and deleted.

Their number and their size are limited: the responses that were not used for the longest time are forgotten. Each
response belongs to the user who created it, and does not exist for others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.background import BackgroundRun
from llamafw_plugins.responses.input_items import item_size


@dataclass(slots=True)
class StoredResponse:
    """A response, and what it was made from."""

    owner: str | None  # name of the user who created it; None: the server does not know its users
    own_input: Sequence[JSON]  # the items of its request
    previous: StoredResponse | None = None  # the response that it continues
    finished: JSON | None = None  # the response; None while it runs in the background
    run: BackgroundRun | None = None  # None: it did not run in the background
    n_uses: int = 0  # 1 if clients can retrieve it, and 1 for each response that continues it
    n_bytes: int = 0  # its part of the store's size

    @property
    def response(self) -> JSON:
        """The response as it is now."""
        if self.run is not None:
            return self.run.response
        assert self.finished is not None  # only background responses are stored before they are finished
        return self.finished

    @property
    def is_running(self) -> bool:
        """Whether the response will still change."""
        return self.run is not None and self.run.is_running

    def input(self) -> list[JSON]:
        """Return all items that the response was made from, those of earlier responses included."""
        return [*([] if self.previous is None else self.previous.history()), *self.own_input]

    def history(self) -> list[JSON]:
        """Return all items of the conversation up to this response."""
        chain = [self]
        while (previous := chain[-1].previous) is not None:
            chain.append(previous)
        return [item for stored in reversed(chain) for item in stored.own_items()]

    def own_items(self) -> list[JSON]:
        """Return the items of the response and its request."""
        return [*self.own_input, *self.response["output"]]

    def size(self) -> int:
        """Return about how many bytes it takes, without the responses before it."""
        if self.is_running:
            return item_size(list(self.own_input))
        events = [] if self.run is None else self.run.events
        return item_size([*self.own_input, self.response, *events])


class ResponseStore:
    """The responses of all users, the most recently used last.

    Parameters
    ----------
    max_responses : int
        Maximum number of responses; 0: nothing is stored.
    max_bytes : int
        Maximum size of all texts together. Responses that run in the background are kept beyond both until they end.
    """

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self.max_responses, self.max_bytes = max_responses, max_bytes
        self.n_bytes = 0
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: dict[tuple[str | None, str], tuple[JSON, int]] = {}  # owner and id → item, how often it is stored

    def __len__(self) -> int:
        return len(self._responses)

    def __iter__(self) -> Iterator[StoredResponse]:
        return iter(list(self._responses.values()))

    def add(self, stored: StoredResponse) -> None:
        """Store a response."""
        self._responses[stored.response["id"]] = stored
        used: StoredResponse | None = stored
        while used is not None:
            used.n_uses += 1
            if used.n_uses > 1:
                break
            self._count(used)
            used = used.previous  # which may have been removed since its use began
        self._shrink()

    def update(self, stored: StoredResponse) -> None:
        """Count a stored response again, when it has ended."""
        if not stored.n_uses:
            return  # it was deleted while it ran
        self.n_bytes -= stored.n_bytes
        self._count(stored)
        self._shrink()

    def get(self, id: str, owner: str | None) -> StoredResponse | None:
        """Return a user's response, or None."""
        stored = self._responses.get(id)
        if stored is None or stored.owner != owner:
            return None
        self._responses.move_to_end(id)
        return stored

    def remove(self, id: str) -> None:
        """Forget a response.

        Responses that continue it keep what they need.
        """
        stored: StoredResponse | None = self._responses.pop(id)
        while stored is not None:
            stored.n_uses -= 1
            if stored.n_uses:
                return
            self.n_bytes -= stored.n_bytes
            for item in [] if stored.is_running else stored.own_items():
                key = stored.owner, item["id"]
                found, n_stored = self._items.pop(key)
                if n_stored > 1:
                    self._items[key] = found, n_stored - 1
            stored = stored.previous

    def find_item(self, id: str, owner: str | None) -> JSON | None:
        """Return the item with an id in the input or output of a user's responses, or None."""
        found = self._items.get((owner, id))
        return None if found is None else found[0]

    def _count(self, stored: StoredResponse) -> None:
        """Add the size of a response to that of the store, and its items if it has ended."""
        stored.n_bytes = stored.size()
        self.n_bytes += stored.n_bytes
        for item in [] if stored.is_running else stored.own_items():
            key = stored.owner, item["id"]
            self._items[key] = item, self._items.get(key, (item, 0))[1] + 1

    def _shrink(self) -> None:
        for id, stored in list(self._responses.items()):
            if len(self._responses) <= self.max_responses and self.n_bytes <= self.max_bytes:
                return
            if not stored.is_running:
                self.remove(id)
