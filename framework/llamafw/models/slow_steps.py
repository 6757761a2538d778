"""Log which step of loading a model takes long, while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def log_if_slow(log: Callable[[str], None], text: str, seconds: float = 1.0) -> Iterator[None]:
    """Log ``text`` if the body of the with statement runs for longer than ``seconds``."""
    timer = threading.Timer(seconds, log, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
