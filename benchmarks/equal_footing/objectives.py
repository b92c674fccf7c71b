"""What a contender is: something that gives a loss for a batch, and counts what it encodes."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import nn

import negcache as nc
from benchmarks.retrieval import Problem
from negcache.interfaces import Estimator, Sampler
from negcache.shapes import Float, Int, Tensor

TEMPERATURE = 0.05


class Setup(NamedTuple):
    """What every contender is given.

    Args:
        problem: the task, and its features.
        tower: of both sides.
        batch: queries of a step.
        seed: of the run.
    """

    problem: Problem
    tower: nn.Module
    batch: int
    seed: int


class Objective(Protocol):
    """The loss of a contender.

    Attributes:
        encoded: items so far, with gradient or without.
    """

    encoded: int

    def __call__(
        self, queries: Float[Tensor, "B D"], rows: Int[Tensor, "B"], positives: Int[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """Of a batch; ``queries`` are the tower's output, ``rows`` their numbers."""
        ...

    def step(self) -> None:
        """After the optimizer's."""
        ...


class Peer:
    """What the losses of other libraries share: embeddings of unit norm, counted.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.encoded = setup, 0

    def step(self) -> None:
        """Nothing is to be done."""

    def items(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """Encoded, of unit norm."""
        self.encoded += len(ids)
        return unit(self.setup.tower(self.setup.problem.items[ids]))


def unit(vectors: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
    """Of unit norm."""
    return torch.nn.functional.normalize(vectors, dim=1)


class Ours:
    """A ``SoftmaxLoss``.

    Args:
        setup: of the run.
        sampler: that it draws with.
        estimator: of its draws.
    """

    def __init__(
        self, setup: Setup, sampler: Sampler, estimator: Estimator = nc.log_q_corrected
    ) -> None:
        problem, self.encoded = setup.problem, 0
        self.loss = nc.SoftmaxLoss(
            setup.tower, problem.items, sampler, nc.DotScore(TEMPERATURE), estimator=estimator,
            known_positives=problem.task.known_positives("train"), seed=setup.seed,
        )  # fmt: skip

    def __call__(self, queries: Tensor, rows: Tensor, positives: Tensor) -> Tensor:
        return self.loss(queries, positives, rows)

    def step(self) -> None:
        self.loss.step()
        report = self.loss.report()
        self.encoded += report.encoded_grad + report.encoded_nograd


class Contender(NamedTuple):
    """A method.

    Args:
        build: its loss, under one setting.
        settings: two values of the setting that matters most beside the learning rate.
    """

    build: Callable[[Setup, object], Objective]
    settings: tuple[object, object]
