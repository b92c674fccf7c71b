"""Rows that are all encoded together, every so many steps, and stay as they were in between."""

from collections.abc import Iterator
from typing import Any

from negcache.cache.dense import DenseCache
from negcache.cache.subset import SubsetCache
from negcache.errors import InputError
from negcache.protocols import Cache, Listener
from negcache.shapes import Bool, Float, Int, Tensor


class SnapshotCache:
    """What the item tower made of all rows at one step; taken anew every ``every`` steps.

    The rows that a training step encodes are passed over, so all rows come from the same weights.
    This is how mined negatives are kept by ANCE (a whole corpus, Xiong et al., ICLR 2021) and by
    stochastic negative mining (a pool of items, drawn anew each time). The snapshot is taken
    between two steps, not beside them.

    Args:
        cache: the rows, with ``rho=1.0``: a ``DenseCache``, or a ``SubsetCache`` as the pool.
        every: optimizer steps from one snapshot to the next; N encodings each time, or the pool's.
    """

    is_live = False

    def __init__(self, cache: Cache, every: int) -> None:
        if every < 1:
            raise InputError("every of 1 or more steps", f"{every}", "1 encodes all rows each step")
        if not isinstance(cache, DenseCache | SubsetCache):
            raise InputError(
                "a DenseCache or a SubsetCache, whose rows can all be renewed at one step",
                type(cache).__name__,
                "use the cache as it is; a LowRankCache makes full passes of its own",
            )
        if cache.rho != 1:
            raise InputError(
                "a cache with rho=1.0, which looks at all its rows again",
                f"rho={cache.rho}",
                "build it with rho=1.0; `every` says when",
            )
        self.cache, self.every, self.renewing = cache, every, False

    @property
    def num_items(self) -> int:
        return self.cache.num_items

    @property
    def num_rows(self) -> int:
        return self.cache.num_rows

    @property
    def coverage(self) -> float:
        return self.cache.coverage

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.cache.valid

    def missing(self) -> Int[Tensor, "R"]:
        return self.cache.missing()

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        return self.cache.chunks(size)

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.cache.rows(slots)

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        return self.cache.slots(ids)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.cache.ids(slots)

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember rows that are being renewed, or were never written; pass the others over."""
        wanted = ~self.valid[self.slots(ids).clamp_min(0)] | self.renewing
        self.cache.write(ids[wanted], rows[wanted])

    def due(self) -> Int[Tensor, "R"]:
        """All rows at every ``every``-th step, a pool's new members for the old; else none."""
        self.renewing = (self.cache.clock + 1) % self.every == 0
        return self.cache.due() if self.renewing else self.cache.written.new_empty(0)

    def tick(self) -> None:
        """One optimizer step has passed; a snapshot is whole now."""
        self.renewing = False
        self.cache.tick()

    def attach(self, listener: Listener) -> None:
        self.cache.attach(listener)

    def state_dict(self) -> dict[str, Any]:
        return self.cache.state_dict() | {"renewing": self.renewing}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cache.load_state_dict(state)
        self.renewing = bool(state["renewing"])
