"""Runs that take turns, so that a busy machine is busy for all of them."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks.equal_footing.regime import Contender
from negcache.run.evaluation import Evaluation
from negcache.shapes import Tensor

TURN = 5
"""Steps of a run before the next has its turn."""


class Runner(ABC):
    """One contender, learning rate, setting and seed.

    Args:
        problem: the task and the tower.
        contender: the method.
        rate: of Adam.
        setting: one of the contender's.
        seed: of the tower, the batches and the draws: the same for all contenders.
        batch: rows of a step, where the contender does not choose.
        allowed: CPU seconds, of building its loss too.
    """

    def __init__(
        self, problem: Any, contender: Contender, rate: float, setting: object, *,
        seed: int, batch: int, allowed: float,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.problem, self.tower, self.allowed = problem, problem.tower(), allowed
        self.order = torch.Generator().manual_seed(seed)
        start = _now()
        self.objective = contender.build(self._setup(batch, seed), setting)
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=rate, fused=True)
        self.seconds, self.steps, self.loss = _now() - start, 0, float("nan")

    @property
    def is_over(self) -> bool:
        return self.seconds >= self.allowed

    def train_some(self) -> None:
        """A turn, or what is left: no shorter than a step."""
        for _ in range(TURN):
            if self.is_over:
                return
            chosen, start = self._next(), _now()
            loss = self.objective(*chosen)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.objective.step((self.seconds + _now() - start) / self.allowed)
            self.seconds += _now() - start
            self.steps, self.loss = self.steps + 1, float(loss.detach())

    @abstractmethod
    def measured(self, split: str, queries: int) -> Evaluation:
        """Exact search over all items."""

    @abstractmethod
    def _setup(self, batch: int, seed: int) -> Any:
        """What the contender is given."""

    @abstractmethod
    def _next(self) -> tuple[Tensor, ...]:
        """What the next step is taken with."""


def race(runners: Iterable[Runner]) -> None:
    """Until each has had its CPU seconds."""
    left = list(runners)
    while left:
        for runner in left:
            runner.train_some()
        left = [runner for runner in left if not runner.is_over]


def _now() -> float:
    return time.process_time()
