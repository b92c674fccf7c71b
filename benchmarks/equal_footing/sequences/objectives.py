"""Losses over sequences, which count the class vectors that they score."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

import negcache as nc
from benchmarks.equal_footing.sequences.problem import DIM, Body, NextClass
from negcache.interfaces import Sampler
from negcache.shapes import Float, Int, Tensor


class Setup(NamedTuple):
    """What every contender is given.

    Args:
        problem: the task.
        tower: the model.
        seed: of the run.
    """

    problem: NextClass
    tower: Body
    seed: int


class Objective(Protocol):
    """The loss of a contender.

    Attributes:
        encoded: class vectors scored so far.
    """

    encoded: int

    def __call__(self, rows: Int[Tensor, "B T1"]) -> Float[Tensor, ""]:
        """Of sequences: of all that come next in them."""
        ...

    def scores(self, hidden: Float[Tensor, "Q D"]) -> Float[Tensor, "Q N"]:
        """Of all classes."""
        ...

    def step(self, spent: float) -> None:
        """After the optimizer's; ``spent`` is the share of the run's time that is over."""
        ...


class Peer:
    """What the losses of other libraries share: the model's class vectors.

    Args:
        setup: of the run.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.encoded = setup, 0
        self.random = torch.Generator().manual_seed(setup.seed)
        self.vectors: Tensor = setup.tower.get_parameter("outcomes.weight")
        self.bias: Tensor | None = getattr(setup.tower.outcomes, "bias", None)

    def scores(self, hidden: Float[Tensor, "Q D"]) -> Float[Tensor, "Q N"]:
        return nn.functional.linear(hidden, self.vectors, self.bias)

    def step(self, spent: float) -> None:
        """Nothing is to be done."""

    def drawn(self, *shape: int) -> Int[Tensor, "..."]:
        """Classes, each as likely as any other."""
        return torch.randint(1, self.setup.problem.classes, shape, generator=self.random)


class Ours:
    """A ``SoftmaxHead`` with the model's vectors.

    Args:
        setup: of the run.
        build: its sampler; None: the head's own.
        each: draws per place.
    """

    def __init__(self, setup: Setup, build: "Build | None", each: int) -> None:
        self.setup, self.encoded = setup, 0
        counts = setup.problem.counts
        sampler = None if build is None else lambda table, m: build(table, m, counts)
        self.head = _head(setup, sampler, each)

    def __call__(self, rows: Int[Tensor, "B T1"]) -> Float[Tensor, ""]:
        return self.head(self.setup.tower(rows[:, :-1]), rows[:, 1:])

    def scores(self, hidden: Float[Tensor, "Q D"]) -> Float[Tensor, "Q N"]:
        return self.head.log_prob(hidden)

    def step(self, spent: float) -> None:
        self.encoded += self.head.report().encoded_grad


def _head(setup: Setup, sampler: Any, each: int) -> nc.SoftmaxHead:
    """Tied to what the model reads, or in the place of its linear layer."""
    tower, seed = setup.tower, setup.seed
    if setup.problem.tied:
        return nc.SoftmaxHead.tied(tower.items, sampler, each, seed=seed)
    layer, classes = tower.outcomes, setup.problem.classes
    head = nc.SoftmaxHead(classes, DIM, sampler, each, padding_idx=0, seed=seed)
    assert isinstance(layer, nn.Linear)
    assert head.bias is not None
    with torch.no_grad():
        head.weight[1:] = layer.weight[1:]
        head.bias[1:] = layer.bias[1:]
    tower.outcomes = head
    return head


class Build(Protocol):
    """Makes a sampler."""

    def __call__(self, table: nc.LiveTable, each: int, counts: Int[Tensor, "N"], /) -> Sampler: ...
