"""Runs that take turns, so that a busy machine is busy for all of them."""

import time
from collections.abc import Iterable

import torch

import negcache as nc
from benchmarks.equal_footing.objectives import TEMPERATURE, Contender, Setup
from benchmarks.retrieval import Problem, some
from negcache.run.evaluation import Evaluation, Side, evaluate

TURN = 5
"""Steps of a run before the next has its turn."""


class Runner:
    """One contender, learning rate, setting and seed.

    Args:
        problem: the task and the tower.
        contender: the method.
        rate: of Adam.
        setting: one of the contender's.
        seed: of the tower, the batches and the draws: the same for all contenders.
        batch: queries of a step, where the contender does not choose.
        allowed: CPU seconds, of building its loss too.
    """

    def __init__(
        self, problem: Problem, contender: Contender, rate: float, setting: object, *,
        seed: int, batch: int, allowed: float,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.problem, self.tower, self.allowed = problem, problem.tower(), allowed
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=rate, fused=True)
        self.pairs = problem.task.learnable("train")
        setup, start = Setup(problem, self.tower, self.pairs, batch, seed, allowed), _now()
        self.objective = contender.build(setup, setting)
        self.order = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.long)
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
            loss = self.objective(self.pairs.queries[chosen], self.pairs.items[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.objective.step((self.seconds + _now() - start) / self.allowed)
            self.seconds += _now() - start
            self.steps, self.loss = self.steps + 1, float(loss.detach())

    def measured(self, split: str, queries: int) -> Evaluation:
        """Exact search over all items."""
        task, problem = self.problem.task, self.problem
        sides = (
            Side(self.tower, problem.queries, task.query_text),
            Side(self.tower, problem.items, task.corpus_text),
        )
        return evaluate(*sides, nc.DotScore(TEMPERATURE), some(task.splits[split], queries))

    def _next(self) -> torch.Tensor:
        if self.pairs is not self.objective.pairs:
            self.pairs, self.left = self.objective.pairs, self.left[:0]
        batch = self.objective.batch
        if len(self.left) < batch:
            self.left = torch.randperm(len(self.pairs), generator=self.order)
        chosen, self.left = self.left[:batch], self.left[batch:]
        return chosen


def race(runners: Iterable[Runner]) -> None:
    """Until each has had its CPU seconds."""
    left = list(runners)
    while left:
        for runner in left:
            runner.train_some()
        left = [runner for runner in left if not runner.is_over]


def _now() -> float:
    return time.process_time()
