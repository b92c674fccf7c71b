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
        batch: queries of a step.
    """

    def __init__(
        self, problem: Problem, contender: Contender, rate: float, setting: object, *,
        seed: int, batch: int,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.problem, self.batch, self.tower = problem, batch, problem.tower()
        self.objective = contender.build(Setup(problem, self.tower, batch, seed), setting)
        self.optimizer = torch.optim.Adam(self.tower.parameters(), lr=rate, fused=True)
        self.pairs = problem.task.learnable("train")
        self.order = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.long)
        self.seconds, self.steps = 0.0, 0

    def train_some(self, until: float) -> None:
        """A turn, or up to these CPU seconds: no shorter than a step."""
        for _ in range(TURN):
            if self.seconds >= until:
                return
            chosen, start = self._next(), time.process_time()
            rows, positives = self.pairs.queries[chosen], self.pairs.items[chosen]
            queries = self.tower(self.problem.queries[rows])
            loss = self.objective(queries, rows, positives)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.objective.step()
            self.seconds += time.process_time() - start
            self.steps += 1

    def measured(self, split: str, queries: int) -> Evaluation:
        """Exact search over all items."""
        task, problem = self.problem.task, self.problem
        sides = (
            Side(self.tower, problem.queries, task.query_text),
            Side(self.tower, problem.items, task.corpus_text),
        )
        return evaluate(*sides, nc.DotScore(TEMPERATURE), some(task.splits[split], queries))

    def _next(self) -> torch.Tensor:
        if len(self.left) < self.batch:
            self.left = torch.randperm(len(self.pairs), generator=self.order)
        chosen, self.left = self.left[: self.batch], self.left[self.batch :]
        return chosen


def race(runners: Iterable[Runner], seconds: float) -> None:
    """Until each has had its CPU seconds."""
    left = list(runners)
    while left:
        for runner in left:
            runner.train_some(seconds)
        left = [runner for runner in left if runner.seconds < seconds]
