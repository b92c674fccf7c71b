"""What a store, an index, a sampler, an estimator, a corpus and known positives must offer.

A **store** remembers what items looked like; a **sampler** proposes items and says how much each
one stands for; an **estimator** turns fresh scores and those weights into the terms of a softmax; a
**refresh policy** says what to look at again.

Protocols are structural: a class belongs to one by having its methods, never by inheriting. Plain
data that travels is in ``messages.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.exclusion import Exclusion
from negcache.messages import Draw, Request, RowChange
from negcache.ops.quantized import QuantizedRows
from negcache.ops.shards import Shard
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class Observer(Protocol):
    """Follows the rows of a store: an index over them. Its state is saved with the store's."""

    def rows_changed(self, change: RowChange) -> None:
        """Rows have been written, or let go; the store already shows them as they are now."""
        ...

    def invalidate(self) -> None:
        """The rows have been replaced as a whole: what is known of them is void."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Reencoder(Protocol):
    """Says what items encoded a while ago look like today, from a few encoded then and now.

    ``<queries(h), items(z)>`` approximates ``<h, fresh embedding>``.
    """

    def start(self, basis: Float[Tensor, "D L"]) -> None:
        """A full pass has been made: coordinates are z = [basis^T e, 1], and nothing has moved."""
        ...

    def fit(self, stale: Float[Tensor, "s C"], fresh: Float[Tensor, "s D"]) -> float:
        """Learn the way from coordinates to fresh embeddings.

        Returns:
            Mean cosine between fresh embeddings held out of the fit and what is made of them.
        """
        ...

    def take_move(self) -> Float[Tensor, "C K"] | None:
        """Stored coordinates z must become ``z @ move``, once; None: they stay as they are."""
        ...

    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        """Approximate embeddings of today."""
        ...

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]: ...

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n K"]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Store(Protocol):
    """Remembers what items looked like when they were last encoded. Holds no gradient.

    Rows stand in numbered slots, each of one item; perhaps not of every item. They are embeddings,
    or low-rank coordinates that a ``reencoder`` knows how to read today. Among several processes
    each has a store of its share of the rows, in slots of its own.
    """

    @property
    def shard(self) -> Shard:
        """Which of the rows are here; ``Shard.whole(num_rows)``: all are."""
        ...

    @property
    def num_items(self) -> int: ...

    @property
    def num_rows(self) -> int: ...

    @property
    def coverage(self) -> float:
        """Chance that an item has a slot somewhere: a row stands for ``1 / coverage`` items."""
        ...

    @property
    def log_weights(self) -> Tensor | None:
        """log of how many items each row stands for beside that, [S]; None: 0 for every row."""
        ...

    @property
    def is_live(self) -> bool:
        """Whether rows are the parameters themselves, so that none is ever stale."""
        ...

    @property
    def clock(self) -> int:
        """Optimizer steps that have passed, the same on all processes; 0 where nothing ages."""
        ...

    @property
    def reencoder(self) -> Reencoder | None:
        """How rows are scored today; None: they are embeddings, scored as they are."""
        ...

    @property
    def valid(self) -> Tensor:
        """Bool [S]: whether the row has ever been written. Other rows are never negatives."""
        ...

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        """Consecutive blocks of rows with the slot of their first row; the last may be short."""
        ...

    @property
    def quantized(self) -> Callable[[int], Iterator[tuple[int, QuantizedRows]]] | None:
        """As ``chunks``, of rows that are kept as int8; None: they are not.

        Queries are then rounded in the same way before they are scored.
        """
        ...

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]: ...

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The slot of each item, -1 where it has none here; ``ids`` itself where slot = id."""
        ...

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The item in each slot."""
        ...

    def missing(self) -> Int[Tensor, "R"]:
        """The items to encode before the first draw, in the order that the store wants them."""
        ...

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items, detached; items without a slot are passed over."""
        ...

    def plan(self) -> Int[Tensor, "R"]:
        """The items to look at again after this optimizer step. Asking changes nothing."""
        ...

    def commit(self) -> None:
        """The plan is carried out: what it names will be written before ``step``."""
        ...

    def step(self) -> None:
        """One optimizer step has passed, and the plan has been written."""
        ...

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change from now on, for as long as somebody else holds it.

        Args:
            name: under which its state is saved with the store's; None: that of its class.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class RefreshPolicy(Protocol):
    """Says which rows of a table of embeddings to renew after a step; pure."""

    @property
    def takes_training_rows(self) -> bool:
        """Whether rows that a training step encodes anyway are written, or those planned alone."""
        ...

    def plan(self, written: Int[Tensor, "S"], step: int, shard: Shard) -> Int[Tensor, "R"]:
        """Slots to renew after step ``step`` (from 0), oldest first.

        The rows of all processes together must not depend on how they are dealt out.

        Args:
            written: the step that each row was last renewed in; -1: never.
            shard: which rows of the whole table these are.
        """
        ...


Noise = Callable[..., Tensor]
"""``noise(*shape)``: float64 uniforms in [0, 1), [B, *shape], new ones at each call."""


@dataclass(frozen=True)
class Proposal:
    """A law over items for the queries of one request; it lives for one step.

    Everything random about the *law* is settled, and the store has been read once. Slots are those
    of ``store``; what a query may not draw, masks, coverage and weights are said in ``draws.py``.

    Args:
        draw: noise -> slots [B, m] and log q of each, -inf where the query may draw nothing.
        log_prob: slots [M] -> log q_b(slot), [B, M]; -inf where the law does not reach the slot.
        log_mass: log of the unnormalised mass on the rows of this process, by which a process is
            drawn among several; None: there is none. ``draw`` and ``log_prob`` are given these
            rows; ``draw`` asks for noise once.
        store: whose slots are spoken of; None: slots are item ids.
        coverage: chance that the law reaches an item at all: a store of some of the items, a step
            that scores some of the rows. The law is then itself drawn, without regard to scores.
        is_softmax: whether ``exp(log_mass)`` is the sum of exp(s~) over the rows that it reaches,
            the partition function that the ``cached_partition`` estimator takes.
        log_expected: slots [M], -1 for none, and log-weights of the queries [B] or None -> log of
            the sum over the queries of q_b(slot), each times its weight, what is excluded left out;
            None: it is summed up from ``log_prob``. For laws that know it at less cost.
        leaves_out: whether no draw is excluded, unless its log q is -inf; else each is looked up.
        spends_last_first: which uniform of a draw picks among consecutive parts of the rows by
            their cumulative mass: the last; False: the first.
    """

    draw: Callable[[Noise], tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]]
    log_prob: Callable[[Int[Tensor, "M"]], Float[Tensor, "B M"]]
    log_mass: Float[Tensor, "B"] | None = None
    store: Store | None = None
    coverage: float = 1.0
    is_softmax: bool = False
    log_expected: Callable[[Int[Tensor, "M"], Tensor | None], Float[Tensor, "M"]] | None = None
    leaves_out: bool = False
    spends_last_first: bool = False


@runtime_checkable
class Sampler(Protocol):
    """Proposes items for each query and says how much each one stands for."""

    @property
    def has_density(self) -> bool:
        """Whether the sampler is a ``DensitySampler``. False is always safe to declare."""
        ...

    @property
    def store(self) -> Store | None:
        """The store whose rows decide the draw; the training step keeps it. None: there is none."""
        ...


@runtime_checkable
class DensitySampler(Sampler, Protocol):
    """A sampler of independent draws from a law that it knows: it can be pooled and mixed."""

    @property
    def num_negatives(self) -> int:
        """Draws per query, m."""
        ...

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        """The law of one step, from one pass over the store. Draws are made from it later."""
        ...


class DrawSampler(Sampler, Protocol):
    """A sampler without a density: it makes the draw itself."""

    def draw(self, request: Request, generator: torch.Generator) -> Draw: ...


Estimator = Callable[[Float[Tensor, "B k"], Draw], Float[Tensor, "B k"]]
"""(fresh scores of the draw, the draw) -> log-terms whose logsumexp estimates log Z_b-."""


@runtime_checkable
class Corpus(Protocol):
    """Features of items by id: a tensor, a token file, anything sized and indexed by ids."""

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Any:
        """What the item tower takes, for these items."""
        ...


@runtime_checkable
class Known(Protocol):
    """The known positives of every query."""

    def exclusion(self, query_ids: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Exclusion:
        """What may not stand for each query: its known positives and its own target."""
        ...
