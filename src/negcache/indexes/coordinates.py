"""A cache of whole embeddings, seen as one of coordinates: each row is its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from negcache.errors import InputError
from negcache.protocols import Cache, Coordinates, Listener, Rows
from negcache.shapes import Bool, Float, Int, Tensor


def as_coordinates(cache: Cache) -> Coordinates:
    """The cache itself where it has coordinates, else its rows as such."""
    return cache if isinstance(cache, Coordinates) else RowsAsCoordinates(cache)


def refuse_coordinates(cache: Rows, what: str) -> None:
    """An index that follows whole rows would not hear when coordinates are read anew.

    Raises:
        InputError: the cache keeps coordinates.
    """
    if isinstance(cache, Coordinates):
        raise InputError(
            f"a cache of whole embeddings for {what}",
            type(cache).__name__,
            "use DynamicIndex or CachedSoftmax over coordinates",
        )


@dataclass(frozen=True)
class RowsAsCoordinates:
    """Everything is the cache's own; coordinates are rows, and rows are scored as they are."""

    cache: Cache

    def coordinates(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        return self.cache.rows(slots)

    def coordinate_chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        return self.cache.chunks(size)

    def see_queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return queries

    def see_items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        return coordinates

    @property
    def num_rows(self) -> int:
        return self.cache.num_rows

    @property
    def num_items(self) -> int:
        return self.cache.num_items

    @property
    def is_live(self) -> bool:
        return self.cache.is_live

    @property
    def coverage(self) -> float:
        return self.cache.coverage

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.cache.valid

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.cache.rows(slots)

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        return self.cache.chunks(size)

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        return self.cache.slots(ids)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.cache.ids(slots)

    def missing(self) -> Int[Tensor, "R"]:
        return self.cache.missing()

    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        self.cache.write(ids, rows)

    def due(self) -> Int[Tensor, "R"]:
        return self.cache.due()

    def tick(self) -> None:
        self.cache.tick()

    def attach(self, listener: Listener) -> None:
        self.cache.attach(listener)

    def state_dict(self) -> dict[str, Any]:
        return self.cache.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cache.load_state_dict(state)
