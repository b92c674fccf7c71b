"""The rows of a dense cache in memory, as they lie there."""

import negcache as nc
from negcache.shapes import Tensor
from negcache.stores.table import RowTable


def embeddings(store: nc.DenseCache) -> Tensor:
    """Of every item, [N, D], not copied."""
    assert isinstance(store.table, RowTable)
    return store.table.embeddings
