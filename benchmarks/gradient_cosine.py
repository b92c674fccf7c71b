"""Does the cosine that ``auto`` reckons with hold in the space of the parameters?

    python -m benchmarks.gradient_cosine [--task go] [--steps 2000] [--batches 4]

A static tower, batch 128, trained for some steps with 512 uniform draws and the batch. Then, for
some batches: the gradient of the parameters by the softmax over all items, and by a pool of each
law. ``measured`` is ``|h|^2 E|g|^2 / <g, h>^2``: how many steps with the pool stand for an exact
one. ``foretold`` is ``1 / cosine^2`` by ``negcache.ops.gradient_cosine``, from the embeddings of
all items. One thread. Resumable per (task, steps, batches).
"""

import argparse
from typing import Any, NamedTuple

import torch

from benchmarks.automatic import methods
from benchmarks.record import append_rows, conclude, hardware, read_rows
from benchmarks.retrieval import Run, fetched, static
from negcache.ops.gradient_cosine import Looked, Moments, chances
from negcache.run.evaluation import encode_all
from negcache.shapes import Float, Int, Tensor

NAME, BATCH, SOME = "gradient_cosine", 128, 32
LAWS = {
    "batch": (0, 0),
    "uniform_128": (128, 0),
    "uniform_512": (512, 0),
    "uniform_2048": (2048, 0),
    "cached_128": (0, 128),
    "cached_512": (0, 512),
}
"""Uniform and cached draws beside the batch's positives."""


class Batch(NamedTuple):
    """Queries, their positives, and the scores of all items for them, -inf where known."""

    rows: Int[Tensor, "B"]
    positives: Int[Tensor, "B"]
    scores: Float[Tensor, "B N"]


class Bench:
    """A trained tower, and batches to take gradients of.

    Args:
        run: trained.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.noise = run, torch.Generator().manual_seed(5)
        pairs = run.problem.task.learnable("train")
        seen = torch.bincount(pairs.items, minlength=len(run.problem.items))
        self.shares = seen / len(pairs)
        self.known = run.problem.task.known_positives("train")
        with torch.no_grad():
            self.items = encode_all(run.tower, run.problem.items, run.score)

    def batch(self, rows: Tensor, positives: Tensor) -> Batch:
        with torch.no_grad():
            scores = self.run.score(self._queries(rows), self.items)
        exclude = self.known.exclusion(rows, positives)
        scores[exclude.rows, exclude.ids] = -torch.inf
        return Batch(rows, positives, scores)

    def expected(self, batch: Batch, law: str) -> Float[Tensor, "N"]:
        """How often each item is to be expected in a pool."""
        uniform, cached = LAWS[law]
        mean = batch.scores.softmax(dim=1).mean(dim=0)
        return (BATCH - 1) * self.shares + uniform / len(self.items) + cached * mean

    def gradient(self, batch: Batch, law: str | None) -> Float[Tensor, "P"]:
        """Of all parameters, from a pool of the law; None: from all items."""
        ids, log_weight = torch.arange(len(self.items)), torch.zeros(len(self.items))
        if law is not None:
            ids, log_weight = self._pool(batch, law)
        run = self.run
        queries, items = self._queries(batch.rows), self._encoded(ids)
        positives = run.score.paired(queries, self._encoded(batch.positives)[:, None]).squeeze(1)
        barred = batch.scores[:, ids] == -torch.inf
        logits = (run.score(queries, items) + log_weight).masked_fill(barred, -torch.inf)
        loss = torch.logaddexp(logits.logsumexp(dim=1), positives) - positives
        found = torch.autograd.grad(loss.mean(), list(run.tower.parameters()))
        return torch.cat([each.flatten() for each in found])

    def foretold(self, batch: Batch, law: str) -> Moments:
        """From the embeddings alone."""
        some = torch.arange(0, BATCH, BATCH // SOME)
        with torch.no_grad():
            queries, own = self._queries(batch.rows[some]), self.items[batch.positives[some]]
            positive = self.run.score.paired(queries, own[:, None]).squeeze(1)
            every = torch.ones(len(self.items))
            found = chances(positive, batch.scores[some], every.log())
            return Looked(found, every, self.items, own).under(1 / self.expected(batch, law))

    def _queries(self, rows: Tensor) -> Tensor:
        return self.run.score.embed(self.run.tower(self.run.problem.queries[rows]))

    def _encoded(self, ids: Tensor) -> Tensor:
        return self.run.score.embed(self.run.tower(self.run.problem.items[ids]))

    def _pool(self, batch: Batch, law: str) -> tuple[Tensor, Tensor]:
        uniform, cached = LAWS[law]
        ids = [batch.positives]
        ids.append(torch.randint(len(self.items), (uniform,), generator=self.noise))
        if cached:
            mean = batch.scores.softmax(dim=1).mean(dim=0)
            ids.append(torch.multinomial(mean, cached, replacement=True, generator=self.noise))
        found, seen = torch.unique(torch.cat(ids), return_counts=True)
        return found, seen.log() - self.expected(batch, law)[found].log()


def measured(bench: Bench, batches: list[Batch], law: str) -> dict[str, float]:
    """Both, over the batches."""
    exact = along = square = 0.0
    foretold = Moments(0.0, 0.0, 0.0)
    for batch in batches:
        truth, found = bench.gradient(batch, None), bench.gradient(batch, law)
        exact += float(truth @ truth)
        along, square = along + float(truth @ found), square + float(found @ found)
        pairs = zip(foretold, bench.foretold(batch, law), strict=True)
        foretold = Moments(*(one + other for one, other in pairs))
    return {
        "measured": round(exact * square / along**2, 3),
        "foretold": round(foretold.cosine**-2, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="go")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting: dict[str, Any] = vars(options)
    if not _rows(setting):
        run = Run(static(fetched(options.task)), methods(BATCH)["both_512"], 3e-3, seed=0)
        list(run.train(steps=options.steps))
        bench, order = Bench(run), run.batches()
        batches = [bench.batch(*next(order)) for _ in range(options.batches)]
        found = {law: measured(bench, batches, law) for law in LAWS}
        rows = [setting | {"law": law} | values | hardware() for law, values in found.items()]
        append_rows(NAME, rows)
    ratios = {
        row["law"]: round(float(row["foretold"]) / float(row["measured"]), 3)
        for row in _rows(setting)
    }
    conclude(NAME, setting | {"foretold_over_measured": ratios})


def _rows(setting: dict[str, Any]) -> list[dict[str, str]]:
    return [r for r in read_rows(NAME) if all(r[k] == f"{v}" for k, v in setting.items())]


if __name__ == "__main__":
    main()
