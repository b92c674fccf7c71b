"""The tasks of texts, and the two towers they are trained with."""

import math
from collections.abc import Callable
from dataclasses import replace

from benchmarks.equal_footing.regime import Regime
from benchmarks.equal_footing.texts import ours, peers
from benchmarks.equal_footing.texts.floor import bm25
from benchmarks.equal_footing.texts.pieces import InPieces
from benchmarks.equal_footing.texts.runner import TextRunner
from benchmarks.frozen import cut
from benchmarks.retrieval import Problem, fetched, static
from benchmarks.small_transformer import TOKENS, under
from negcache.run.data import Task

STATIC_TOKENS, BATCH = 64, 128


def task(name: str, max_tokens: int) -> Task:
    """Built in, or fetched the first time; ``code`` is read from the packages that are installed:
    first line of a docstring -> its function, 10,000 of them."""
    return cut(name, max_tokens) if name == "code" else fetched(name, max_tokens)


def of_static(name: str) -> Problem:
    """Under token vectors averaged and a linear map."""
    return static(task(name, STATIC_TOKENS))


def of_transformer(name: str) -> Problem:
    """Under the small transformer; it keeps few activations, or all items at once need many GB."""
    problem = under(task(name, TOKENS))
    return replace(problem, tower=lambda: InPieces(problem.tower()))


def _regime(
    model: str, problem: Callable[[str], Problem], rates: tuple[float, ...], most: float
) -> Regime:
    return Regime(
        model, problem, rates, TextRunner, ours.METHODS, peers.METHODS, ("bm25", bm25), BATCH, most
    )


REGIMES = {
    "static": _regime("static tower", of_static, (1e-3, 3e-3, 1e-2), math.inf),
    "transformer": _regime("transformer tower", of_transformer, (3e-4, 1e-3, 3e-3), 50_000),
}
