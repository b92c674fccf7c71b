"""One row per item, in memory or in a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.interfaces import Observer, RefreshPolicy
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.observers import Observers
from negcache.stores.refresh import Oldest
from negcache.stores.row_memory import QuantizedChunks
from negcache.stores.tables import check_dim, make_table


class DenseCache:
    """The embeddings of a whole corpus, refreshed a small fraction a step.

    Rows never written are not ``valid`` and are never drawn. The age of a row counts from its last
    write, by a training step or by a refresh. Source: Lindgren et al., NeurIPS 2021.

    Args:
        num_items: N; a row's number is its item id.
        dim: D, as the towers give it.
        refresh: the fraction rho of the corpus to look at again each optimizer step, oldest first,
            so that no row is older than ceil(1 / rho) steps; 0: only drawn items are ever written.
            Or a policy: ``stores.Snapshot(every)``.
        dtype: of the rows; scores stay float32. bfloat16 halves the memory. int8, with a scale a
            row, quarters it and is drawn from by integer products, where queries are rounded too.
        device: where the rows live.
        path: of a file to keep them in, on the host; ``docs/large_tables.md`` says what for.
        mesh: the processes that hold the rows, each its share; None: those that train together
            now, ``Mesh.now()``.
    """

    coverage = 1.0
    log_weights = None
    is_live = False
    reencoder = None

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        refresh: float | RefreshPolicy = 0.01,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        if num_items < 2:
            raise InputError("at least 2 items", f"{num_items}", "a softmax needs a negative")
        self.refresh = Oldest(refresh) if isinstance(refresh, float | int) else refresh
        self.shard = Shard.of(Mesh.now() if mesh is None else mesh, num_items)
        self.observers = Observers()
        self.table = make_table(self.shard, dim, dtype, device, path)
        self.clock, self.refreshing = 0, False

    def __len__(self) -> int:
        return self.num_items

    @property
    def num_items(self) -> int:
        return self.shard.total

    @property
    def num_rows(self) -> int:
        return self.shard.size

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.local(ids)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.ids(slots)

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Whether the row has ever been written."""
        return self.table.valid

    def missing(self) -> Int[Tensor, "R"]:
        return self.ids((~self.valid).nonzero().squeeze(1))

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        """Consecutive blocks of rows, each with the slot of its first row."""
        return self.table.rows.chunks(size)

    @property
    def quantized(self) -> QuantizedChunks | None:
        """Blocks of rows that are kept as int8; None: they are not."""
        return self.table.rows.quantized

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.table.rows.read(slots)

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items, written in the current step.

        Those that other processes hold are passed over.
        """
        check_dim(rows, self.table.dim)
        slots = self.slots(ids)
        if slots is not ids:
            slots, rows = slots[slots >= 0], rows[slots >= 0]
        if not (self.refresh.takes_training_rows or self.refreshing):
            new = ~self.valid[slots]
            slots, rows = slots[new], rows[new]
        with self.observers.change(self, slots):
            self.table.write(slots, rows, self.clock)

    def plan(self) -> Int[Tensor, "R"]:
        return self.ids(self.refresh.plan(self.table.written, self.clock, self.shard))

    def commit(self) -> None:
        """Until the step has passed, written rows are those of the plan."""
        self.refreshing = True

    def step(self) -> None:
        """One optimizer step has passed."""
        self.clock, self.refreshing = self.clock + 1, False

    def ages(self) -> Int[Tensor, "S"]:
        """Steps since each row was last written; rows never written are older than the clock."""
        return self.clock - self.table.written

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change, as long as somebody holds it; its state is saved with this."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        own = {"clock": self.clock, "refreshing": self.refreshing}
        return self.table.state_dict() | own | self.observers.state_dict(self.shard)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state)
        self.clock, self.refreshing = int(state["clock"]), bool(state["refreshing"])
        self.observers.load_state_dict(state, self.shard)
