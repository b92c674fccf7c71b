"""Losses over pairs of texts; each counts what it encodes."""

from typing import NamedTuple, Protocol

import torch
from torch import nn

import negcache as nc
from benchmarks.retrieval import Problem
from negcache.interfaces import Estimator, Sampler
from negcache.run.data import Judgements
from negcache.shapes import Float, Int, Tensor

TEMPERATURE = 0.05


class Setup(NamedTuple):
    """What every contender is given.

    Args:
        problem: the task, and its features.
        tower: of both sides.
        pairs: that are trained on.
        batch: queries of a step.
        seed: of the run.
        seconds: of the CPU that the run has.
    """

    problem: Problem
    tower: nn.Module
    pairs: Judgements
    batch: int
    seed: int
    seconds: float


class Objective(Protocol):
    """The loss of a contender.

    Attributes:
        encoded: items so far, with gradient or without.
        batch: queries of its next step.
        pairs: that its next batch is taken from.
    """

    encoded: int
    batch: int
    pairs: Judgements

    def __call__(self, rows: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """Of a batch of queries and items, by their numbers."""
        ...

    def step(self, spent: float) -> None:
        """After the optimizer's; ``spent`` is the share of the run's time that is over."""
        ...


class Peer:
    """What the losses of other libraries share: embeddings of unit norm, counted.

    Args:
        setup: of the run.
        times: queries of a step, in batches of the others.
    """

    def __init__(self, setup: Setup, times: int = 1) -> None:
        self.setup, self.encoded, self.pairs = setup, 0, setup.pairs
        self.batch = min(times * setup.batch, len(setup.pairs))

    def step(self, spent: float) -> None:
        """Nothing is to be done."""

    def queries(self, rows: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Encoded, of unit norm."""
        return unit(self.setup.tower(self.setup.problem.queries[rows]))

    def items(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """Encoded, of unit norm."""
        self.encoded += len(ids)
        return unit(self.setup.tower(self.setup.problem.items[ids]))


def unit(vectors: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
    """Of unit norm."""
    return torch.nn.functional.normalize(vectors, dim=1)


class Ours:
    """A ``SoftmaxLoss`` over the task's items.

    Args:
        setup: of the run.
        sampler: that it draws with.
        estimator: of its draws.
    """

    def __init__(
        self, setup: Setup, sampler: Sampler, estimator: Estimator = nc.log_q_corrected
    ) -> None:
        self.setup, self.encoded = setup, 0
        self.batch, self.pairs = setup.batch, setup.pairs
        self.loss = nc.SoftmaxLoss(
            setup.tower, setup.problem.items, sampler, nc.DotScore(TEMPERATURE),
            estimator=estimator, known_positives=setup.problem.task.known_positives("train"),
            seed=setup.seed,
        )  # fmt: skip

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        return self.loss(self.setup.tower(self.setup.problem.queries[rows]), positives, rows)

    def step(self, spent: float) -> None:
        self.loss.step()
        self.encoded += encoded(self.loss)


class Streamed:
    """A ``SoftmaxLoss`` over a cache of what has come by: the batch's positives, and others.

    Args:
        setup: of the run.
        cache: that receives them.
        sampler: that draws from it.
        beside: items without queries that come with each batch, drawn at random.
    """

    def __init__(
        self, setup: Setup, cache: nc.StreamingCache, sampler: Sampler, beside: int
    ) -> None:
        self.setup, self.cache, self.beside, self.encoded = setup, cache, beside, 0
        self.batch, self.pairs = setup.batch, setup.pairs
        self.loss = nc.SoftmaxLoss(
            setup.tower, cache, sampler, nc.DotScore(TEMPERATURE), seed=setup.seed
        )
        self.random = torch.Generator().manual_seed(setup.seed)

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        problem = self.setup.problem
        self.cache.receive(positives, problem.items[positives])
        if self.beside:
            others = torch.randint(len(problem.items), (self.beside,), generator=self.random)
            self.cache.receive(others, problem.items[others])
        return self.loss(self.setup.tower(problem.queries[rows]), positives)

    def step(self, spent: float) -> None:
        self.loss.step()
        self.encoded += encoded(self.loss)


def encoded(loss: nc.SoftmaxLoss) -> int:
    """Items since it was last asked, with gradient or without."""
    report = loss.report()
    return report.encoded_grad + report.encoded_nograd
