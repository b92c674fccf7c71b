"""Ctrl-C and SIGTERM: finish the step, leave a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Numbers of the stop signals received in the block; a second one acts at once, as usual.

    Signals reach the main thread only; in other threads the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in STOPPING}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        received.append(number)
        restore()

    for number in STOPPING:
        signal.signal(number, note)
    try:
        yield received
    finally:
        restore()
