"""Approximate search over the rows of a store, by faiss."""

from typing import Any

import faiss
import torch

from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.messages import RowChange
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import refuse_coordinates

BLOCK = 1 << 16
"""Rows handed over at a time."""

TRAINED_ON = 1 << 18
"""Rows, chosen at random, that an index with clusters or codes is trained on."""


class FaissIndex:
    """A faiss index of a store's rows by inner product, in float32 on the CPU.

    It is built anew, as a whole, at the first search after rows have changed: put it over a
    store with ``refresh=Snapshot(every)``. It observes the store, and is saved with it as it is,
    since a build by several threads is not the same twice.

    Args:
        store: the rows.
        factory: faiss' name of the index: ``"Flat"`` (exact), ``"IVF1024,Flat"``, ``"HNSW32"``.
        settings: faiss' search parameters, ``"nprobe=16"`` or ``"efSearch=64"``.
    """

    def __init__(self, store: Store, factory: str = "Flat", *, settings: str = "") -> None:
        refuse_coordinates(store, "a search index")
        self.store, self.factory, self.settings = store, factory, settings
        self.index: faiss.Index | None = None
        self._empty()  # an unknown name is refused now, not after the first pass
        store.observe(self)

    def __call__(self, queries: Float[Tensor, "B D"], score: Score, k: int) -> Int[Tensor, "B k"]:
        """Slots of the k rows of largest inner product, best first; -1 where fewer are found.

        Args:
            queries: embedded.
            score: one that grows with the inner product.
            k: rows per query.
        """
        if self.index is None:
            self.index = self._build()
        slots = self.index.search(_numpy(queries), k)[1]
        return torch.from_numpy(slots).to(queries.device)

    def rows_changed(self, change: RowChange) -> None:
        """Rows have changed: the next search builds the index anew."""
        if len(change.slots):
            self.invalidate()

    def invalidate(self) -> None:
        self.index = None

    def state_dict(self) -> dict[str, Any]:
        if self.index is None:
            return {"index": None}
        return {"index": torch.from_numpy(faiss.serialize_index(self.index))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = state["index"]
        self.index = None
        if saved is not None:
            self.index = self._set(faiss.deserialize_index(saved.cpu().numpy()))

    def _build(self) -> faiss.Index:
        index, num_rows = self._empty(), self.store.num_rows
        if not index.is_trained:
            order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))
            sample = order[:TRAINED_ON].to(self.store.valid.device)
            try:
                index.train(_numpy(self.store.rows(sample)))
            except RuntimeError as error:
                raise InputError(
                    f"a faiss index that {len(sample)} rows can train",
                    f"{self.factory!r}",
                    "name fewer clusters or a smaller code",
                ) from error
        for _, block in self.store.chunks(BLOCK):
            index.add(_numpy(block))
        return index

    def _empty(self) -> faiss.Index:
        dim = next(iter(self.store.chunks(1)))[1].shape[1]
        try:
            return self._set(faiss.index_factory(dim, self.factory, faiss.METRIC_INNER_PRODUCT))
        except RuntimeError as error:
            raise InputError(
                f"a faiss factory string for {dim} dimensions, and its search parameters",
                f"factory {self.factory!r}, settings {self.settings!r}",
                'use "Flat", "IVF1024,Flat" with "nprobe=16", or "HNSW32" with "efSearch=64"',
            ) from error

    def _set(self, index: faiss.Index) -> faiss.Index:
        if self.settings:
            faiss.ParameterSpace().set_index_parameters(index, self.settings)
        return index


def _numpy(rows: Tensor) -> Any:
    return rows.detach().float().cpu().contiguous().numpy()
