"""The items of one batch as a corpus: nothing of a stream is kept."""

import sys

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.shapes import Int, Tensor
from negcache.stores.arrivals import gathered_ids, last_of_each
from negcache.stores.feature_rows import Features, Rows, form_of, from_rows, gathered, some, to_rows


class BatchItems:
    """Features of the items that came last, by their own ids; for losses without a cache.

    What one process receives all receive, since they encode the items of a step together.

    Args:
        mesh: these processes.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.form = mesh, "tensor"
        self.ids = torch.empty(0, dtype=torch.int64)
        self.rows: Rows = {}

    def __len__(self) -> int:
        """Ids are below this."""
        return sys.maxsize

    def receive(self, ids: Int[Tensor, "M"], features: Features) -> None:
        """The items of the next batch; those of the one before are let go."""
        self.form = form_of(features)
        rows = gathered(to_rows(features), self.form, self.mesh, len(ids))
        every = gathered_ids(ids, self.mesh).cpu()
        last = last_of_each(every)
        last = last[every[last].argsort()]
        self.ids, self.rows = every[last], some(rows, last)

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Features:
        """Features of items of the batch."""
        ids = ids.cpu()
        place = torch.searchsorted(self.ids, ids.contiguous()).clamp_(max=len(self.ids) - 1)
        if not bool((self.ids[place] == ids).all()):
            raise InputError(
                "items of the batch", f"others, {ids[:3].tolist()} first", "receive them before"
            )
        return from_rows(some(self.rows, place), self.form)
