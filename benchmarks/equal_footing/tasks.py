"""The tasks, and the two towers they are trained with."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from benchmarks.equal_footing.pieces import InPieces
from benchmarks.frozen import cut
from benchmarks.retrieval import Problem, fetched, static
from benchmarks.small_transformer import TOKENS, under
from negcache.run.data import Task

STATIC_TOKENS = 64


class Regime(NamedTuple):
    """A tower and what suits it.

    Args:
        problem: of a task by name.
        rates: of Adam that are tried.
        most: items that a method may encode at every step; with more it is left out.
    """

    problem: Callable[[str], Problem]
    rates: tuple[float, ...]
    most: float


def task(name: str, max_tokens: int) -> Task:
    """Built in, or fetched the first time; ``code`` is read from the packages that are installed:
    first line of a docstring -> its function, 10,000 of them."""
    return cut(name, max_tokens) if name == "code" else fetched(name, max_tokens)


def of_transformer(name: str) -> Problem:
    """Under the small transformer; it keeps few activations, or all items at once need many GB."""
    problem = under(task(name, TOKENS))
    return replace(problem, tower=lambda: InPieces(problem.tower()))


REGIMES = {
    "static": Regime(lambda name: static(task(name, STATIC_TOKENS)), (1e-3, 3e-3, 1e-2), math.inf),
    "transformer": Regime(of_transformer, (3e-4, 1e-3, 3e-3), 50_000),
}
