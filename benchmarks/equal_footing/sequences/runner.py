"""Runs over sequences: all classes are ranked by what the loss makes of them."""

import torch

from benchmarks.equal_footing.race import Runner
from benchmarks.equal_footing.sequences.objectives import Setup
from benchmarks.equal_footing.sequences.problem import Asked
from negcache.run.data import Judgements
from negcache.run.evaluation import Evaluation, Ranking, evaluation_of
from negcache.run.evaluation.metrics import DEPTH
from negcache.shapes import Float, Int, Tensor


class Numbers:
    """Rows that are called by their numbers."""

    def ids(self, rows: Int[Tensor, "M"]) -> list[str]:
        return [str(row) for row in rows.tolist()]


class SequenceRunner(Runner):
    """Random sequences in each batch."""

    def measured(self, split: str, queries: int) -> Evaluation:
        asked = some(self.problem.asked[split], queries)
        self.tower.eval()
        with torch.no_grad():
            places = torch.arange(asked.seen.shape[1])
            last = ((asked.seen > 0) * places).argmax(dim=1)
            hidden = self.tower(asked.seen)[torch.arange(len(last)), last]
            scores = self.objective.scores(hidden)
        self.tower.train()
        return ranked(scores, asked)

    def _setup(self, batch: int, seed: int) -> Setup:
        self.batch = batch
        return Setup(self.problem, self.tower, seed)

    def _next(self) -> tuple[Tensor, ...]:
        rows = self.problem.rows
        return (rows[torch.randint(len(rows), (self.batch,), generator=self.order)],)


def some(asked: Asked, at_most: int) -> Asked:
    """A fixed random choice of them."""
    order = torch.randperm(len(asked.wanted), generator=torch.Generator().manual_seed(11))
    chosen = order[:at_most]
    return Asked(asked.seen[chosen], asked.wanted[chosen], asked.barred.of(chosen))


def ranked(scores: Float[Tensor, "Q N"], asked: Asked) -> Evaluation:
    """The measures of the best classes; 0 and what is barred are not among them."""
    scores = scores.clone()
    scores[:, 0] = -torch.inf
    scores[asked.barred.rows, asked.barred.ids] = -torch.inf
    best = scores.topk(min(DEPTH, scores.shape[1] - 1))
    every, names = torch.arange(len(scores)), Numbers()
    judged = Judgements(every, asked.wanted, torch.ones_like(every))
    found = Ranking(names.ids(every), [names.ids(row) for row in best.indices], best.values)
    return evaluation_of(found, judged, every, names, names)
