"""Runs over pairs of texts: a tower for both sides, searched exactly."""

import torch

import negcache as nc
from benchmarks.equal_footing.race import Runner
from benchmarks.equal_footing.texts.objectives import TEMPERATURE, Setup
from benchmarks.retrieval import some
from negcache.run.evaluation import Evaluation, Side, evaluate
from negcache.shapes import Tensor


class TextRunner(Runner):
    """Queries and items by their numbers, in batches of pairs."""

    def measured(self, split: str, queries: int) -> Evaluation:
        task, problem = self.problem.task, self.problem
        sides = (
            Side(self.tower, problem.queries, task.query_text),
            Side(self.tower, problem.items, task.corpus_text),
        )
        return evaluate(*sides, nc.DotScore(TEMPERATURE), some(task.splits[split], queries))

    def _setup(self, batch: int, seed: int) -> Setup:
        self.pairs = self.problem.task.learnable("train")
        self.left = torch.empty(0, dtype=torch.long)
        return Setup(self.problem, self.tower, self.pairs, batch, seed, self.allowed)

    def _next(self) -> tuple[Tensor, ...]:
        if self.pairs is not self.objective.pairs:
            self.pairs, self.left = self.objective.pairs, self.left[:0]
        batch = self.objective.batch
        if len(self.left) < batch:
            self.left = torch.randperm(len(self.pairs), generator=self.order)
        chosen, self.left = self.left[:batch], self.left[batch:]
        return self.pairs.queries[chosen], self.pairs.items[chosen]
