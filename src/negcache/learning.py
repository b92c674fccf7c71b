"""The sampler of a loss: who it is, what it is told where it learns, where its state goes."""

from collections.abc import Iterable
from typing import Any, Protocol, TypeGuard

import torch

from negcache.distributed import Mesh
from negcache.encoder import ItemEncoder
from negcache.errors import InputError
from negcache.interfaces import Corpus, Sampler
from negcache.messages import Request
from negcache.samplers.auto import Encode, sampler_for
from negcache.shapes import Float, Int, Tensor
from negcache.step import Encoded
from negcache.stores.among_processes import check_pool
from negcache.validation import check_items

COUNTED = 8
"""Items that the work of the tower is counted over."""

AT_ONCE = 1024
"""Items that are encoded at a time, to be looked at."""


class Learner(Protocol):
    """A sampler that learns from what came of its draws; its state is saved with the loss'."""

    @property
    def has_begun(self) -> bool:
        """Whether it knows what a step costs."""
        ...

    def begin(self, queries: int, dim: int, tower_flops: int, parameters: int) -> None:
        """Before the first draw.

        Args:
            queries: of a batch.
            dim: of embeddings.
            tower_flops: of one item through the item tower, forward.
            parameters: numbers that are trained.
        """
        ...

    def learn(self, request: Request, targets: Float[Tensor, "B p D"], encode: Encode) -> None:
        """A training step was made with the last draw.

        Args:
            targets: fresh rows of the queries' positives.
            encode: items as they are today, without gradient, to look at more of them.
        """
        ...

    def at_rest(self) -> Sampler:
        """One that draws as most steps do; whatever it is asked changes nothing here."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def learns(sampler: Sampler) -> TypeGuard[Learner]:
    """By one of its methods: every step asks, and ``isinstance`` looks at all of a protocol."""
    return hasattr(sampler, "learn")


def admit_sampler(sampler: Sampler | str, corpus: Corpus, gather_across_devices: bool) -> Sampler:
    """The sampler that is meant. Raises InputError where it does not fit the corpus."""
    chosen = sampler_for(sampler, corpus)
    check_pool(chosen.store, gather_across_devices)
    check_items(len(corpus), None if chosen.store is None else chosen.store.num_items)
    return chosen


def begin(
    sampler: Sampler,
    queries: Float[Tensor, "B D"],
    positives: Int[Tensor, "B *p"],
    encoder: ItemEncoder,
    parameters: Iterable[Tensor],
    pooled: Mesh,
) -> None:
    """Before its first draw a sampler that learns is told what a step costs.

    Args:
        pooled: the processes for whose queries it draws together.
    """
    if learns(sampler) and not sampler.has_begun:
        some = positives[positives >= 0][:COUNTED]
        trained = sum(each.numel() for each in parameters if each.requires_grad)
        count = int(pooled.total(torch.tensor(len(queries))))
        sampler.begin(count, queries.shape[1], encoder.flops(some), trained)


def learn(sampler: Sampler, asked: Request, items: Encoded, encoder: ItemEncoder) -> int:
    """A training step has encoded what was drawn.

    Returns:
        How many items more were encoded, without gradient.
    """
    looked = 0

    def encode(ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        nonlocal looked
        looked += len(ids)
        return torch.cat([rows for _, rows in encoder.encode_all(ids, AT_ONCE)])

    if learns(sampler):
        sampler.learn(asked, items.targets.detach(), encode)
    return looked


def learnt(sampler: Sampler) -> dict[str, Any]:
    """What belongs in the state of a loss; nothing where the sampler does not learn."""
    return {"sampler": sampler.state_dict()} if learns(sampler) else {}


def load_learnt(sampler: Sampler, state: dict[str, Any]) -> None:
    """Take it from the state of a loss. Raises InputError where it is not there."""
    if not learns(sampler):
        return
    if "sampler" not in state:
        raise InputError(
            f"a state with what a {type(sampler).__name__} has learnt",
            f"one with {', '.join(sorted(state))}",
            "build the loss with the sampler it was saved with",
        )
    sampler.load_state_dict(state["sampler"])
