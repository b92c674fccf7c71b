"""What is compared: methods, and regimes of models, each with its tasks, methods and floor."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from negcache.run.evaluation import Evaluation


class Contender(NamedTuple):
    """A method.

    Args:
        build: its loss for what a run is given, under one setting.
        settings: two values of the setting that matters most beside the learning rate.
        encodes_all: items, at every step.
    """

    build: Callable[[Any, object], Any]
    settings: tuple[object, object]
    encodes_all: bool = False


class Regime(NamedTuple):
    """Models of one kind.

    Args:
        model: what it is, in words.
        problem: of a task by name.
        rates: of Adam that are tried.
        runner: makes a run of a contender, see ``race.Runner``.
        ours: our methods.
        peers: what others offer.
        floor: the name of what is not trained, and what it finds of so many test queries.
        batch: rows of a step.
        most: items that a method may encode at every step; with more it is left out.
    """

    model: str
    problem: Callable[[str], Any]
    rates: tuple[float, ...]
    runner: Callable[..., Any]
    ours: dict[str, Contender]
    peers: dict[str, Contender]
    floor: tuple[str, Callable[[Any, int], Evaluation]]
    batch: int
    most: float = math.inf

    @property
    def methods(self) -> dict[str, Contender]:
        return self.ours | self.peers

    @property
    def reference(self) -> str:
        """What the others are compared with: what a user of ours has who chooses nothing."""
        return next(iter(self.ours))

    def left_out(self, method: str, items: int) -> bool:
        """Whether it encodes more items at every step than is allowed."""
        return self.methods[method].encodes_all and items > self.most
