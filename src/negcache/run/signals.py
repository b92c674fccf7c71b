"""Ctrl-C and SIGTERM: finish what must be whole, stop what need not be."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A stop signal, where nothing is to be finished first.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignals:
    """Those that were received."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A signal in the block, or before it, raises `Stopped`."""
        self._at_once = True
        try:
            self._act()
            yield
        finally:
            self._at_once = False

    def take(self, number: int) -> None:
        """One has been received."""
        self.received.append(number)
        self._act()

    def _act(self) -> None:
        if self._at_once and self.received:
            raise Stopped(self.received[0])


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """The stop signals received in the block; a second one acts as outside of it.

    Signals reach the main thread only; in other threads none is received. A process that is forked
    in the block is stopped as one that is forked outside of it.
    """
    stops, own = StopSignals(), os.getpid()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    before = {number: signal.getsignal(number) for number in STOPPING}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        restore()
        if os.getpid() == own:
            stops.take(number)
        else:
            signal.raise_signal(number)

    for number in STOPPING:
        signal.signal(number, note)
    try:
        yield stops
    finally:
        restore()
