"""Lets a process clean up when it is told to end by a signal, such as that of `kill`.

Ctrl-C raises KeyboardInterrupt, so ``with`` and ``finally`` remove incomplete files. Other signals would end the
process at once, which is right while there is nothing to clean up. Independent of what that is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Terminated(BaseException):
    """The process has received a signal that ends it.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised_signals() -> Iterator[None]:
    """Raise `Terminated` for signals that end the process; a second one ends it at once.

    When the block has cleaned up, the process ends by the signal, so that other programs see what has ended it. Signals
    that are ignored, as under `nohup`, or handled by others, stay so; so does everything outside the main thread.
    """
    previous = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, _raise)
    except ValueError:  # this is not the main thread, which gets all signals
        pass
    try:
        yield
    except Terminated as error:
        with suppress(OSError, ValueError):  # what reads the output has ended, too
            sys.stdout.flush()
        signal.signal(error.number, signal.SIG_DFL)
        os.kill(os.getpid(), error.number)
        raise  # not reached, except while the signal is blocked
    finally:
        for number in previous:
            if signal.getsignal(number) is _raise:
                signal.signal(number, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    for one in _SIGNALS:
        if signal.getsignal(one) is _raise:
            signal.signal(one, signal.SIG_DFL)
    raise Terminated(number)
