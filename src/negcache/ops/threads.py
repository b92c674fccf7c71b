"""Pieces of a pass over rows, each worked on by one thread from end to end.

Torch deals every single operation out to its threads, and waits for the last of them: some hundred
times a pass. Where a core has other work as well (a data loader's worker will do), each of these
waits is for that core. Here a thread that is done takes the next piece, and they wait once.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import TypeVar

import torch

from negcache.shapes import Tensor

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def threads_for(tensor: Tensor, pieces: int) -> int:
    """How many threads share so many pieces of work on a tensor: torch's own, on a CPU."""
    return min(torch.get_num_threads(), pieces) if tensor.device.type == "cpu" else 1


def dealt_out(
    pieces: Iterable[Piece], threads: int, worker: Callable[[], Callable[[Piece], Result]]
) -> list[Result]:
    """What workers make of all pieces, in their order, without gradients.

    A piece is computed by one thread, so results are the same for any number of threads.

    Args:
        pieces: asked for one at a time, by the thread that will work on it.
        threads: as ``threads_for`` says.
        worker: makes one, with memory of its own.
    """
    if threads < 2:
        work = worker()
        return [work(piece) for piece in pieces]
    found: dict[int, Result] = {}
    numbered, lock = iter(enumerate(pieces)), Lock()

    @torch.no_grad()
    def run(_: int) -> None:
        work = worker()
        while True:
            with lock:
                coming = next(numbered, None)
            if coming is None:
                return
            number, piece = coming
            found[number] = work(piece)

    own = torch.get_num_threads()
    try:
        for _ in _pool(own).map(run, range(threads)):
            pass
    finally:
        torch.set_num_threads(own)  # what a thread says of itself, others take for their own
    return [found[number] for number in range(len(found))]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads within which torch has one."""
    return ThreadPoolExecutor(threads, "negcache", _be_alone)


def _be_alone() -> None:
    torch.get_num_threads()  # a thread that has not asked yet would take all of them when it does
    torch.set_num_threads(1)


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of its parent's threads
