"""What a cache, a sampler, an estimator, a corpus and a table of known positives must offer."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from negcache.exclusion import Exclusion
from negcache.protocols.messages import Change, Draw, Law, Request
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class Rows(Protocol):
    """Embeddings in numbered slots, each of one item; perhaps not of every item."""

    @property
    def num_rows(self) -> int: ...

    @property
    def coverage(self) -> float:
        """Chance that an item has a slot: a row stands for ``1 / coverage`` items. 1: all have."""
        ...

    @property
    def valid(self) -> Tensor:
        """Bool [S]: whether the row has ever been written. Other rows are never negatives."""
        ...

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Consecutive blocks of rows with the slot of their first row; the last may be short."""
        ...

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]: ...

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """The slot of each item, -1 where it has none; ``ids`` itself where slot = item id."""
        ...

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The item in each slot."""
        ...


@runtime_checkable
class Listener(Protocol):
    """Follows the rows of a cache: an index over them. Its state is saved with the cache's."""

    def on_change(self, change: Change) -> None:
        """Rows have been written, or let go; the cache already shows them as they are now."""
        ...

    def forget(self) -> None:
        """The rows have been replaced as a whole: what is known of them is void."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Cache(Rows, Protocol):
    """Remembers what items looked like when they were last encoded. Holds no gradient."""

    @property
    def num_items(self) -> int: ...

    @property
    def is_live(self) -> bool:
        """Whether rows are the parameters themselves, so that none is ever stale."""
        ...

    def missing(self) -> Int[Tensor, "R"]:
        """The items to encode before the first draw, in the order that the cache wants them."""
        ...

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items, detached; items without a slot are passed over."""
        ...

    def due(self) -> Int[Tensor, "R"]:
        """The items to look at again after this optimizer step, stalest first."""
        ...

    def tick(self) -> None:
        """One optimizer step has passed."""
        ...

    def attach(self, listener: Listener) -> None:
        """Tell it of every change from now on, and keep its state with the cache's own."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Coordinates(Cache, Protocol):
    """A cache of low-dimensional coordinates, and of how to read them today.

    The logit of an item is ``score.paired(see_queries(h), see_items(z))``.
    """

    def coordinates(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]: ...

    def coordinate_chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        """Consecutive blocks of coordinates with the slot of their first row."""
        ...

    def see_queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]: ...

    def see_items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n K"]:
        """Coordinates of items, or of the centres of some, as they are scored today."""
        ...


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

    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        """Approximate embeddings of today."""
        ...

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]: ...

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n K"]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Sampler(Protocol):
    """Proposes items for each query and says how much each one stands for."""

    @property
    def has_density(self) -> bool:
        """Whether the sampler is a ``DensitySampler``. False is always safe to declare."""
        ...

    @property
    def cache(self) -> Cache | None:
        """The cache whose rows decide the draw; the training step keeps it. None: there is none."""
        ...

    def draw(self, request: Request, generator: torch.Generator) -> Draw: ...


@runtime_checkable
class DensitySampler(Sampler, Protocol):
    """A sampler of independent per-query draws whose law is known: it can be pooled and mixed.

    Draws have ``log_weight = -log(m q_b(y) coverage)``.
    """

    @property
    def num_negatives(self) -> int:
        """Draws per query, m."""
        ...

    @property
    def coverage(self) -> float:
        """Chance that the law of a draw reaches an item at all. 1: it reaches every item.

        Below 1 the law is itself drawn, without regard to scores: a cache of some of the items, a
        step that scores some of the rows.
        """
        ...

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """log q_b(y): chance that one draw for query b is y; -inf where b may not draw y.

        Sums to 1 over the items that the law reaches, less the chance of hits that are masked.

        Args:
            ids: any items.
            law: of this sampler's own draw for the same request: saves a second pass over the
                cache, and says which law it was where that is drawn too.
        """
        ...


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
