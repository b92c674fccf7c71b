"""Low-rank coordinates of every item, and a re-encoder that says how they look today."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.interfaces import Observer, Reencoder
from negcache.ops.nystrom import find_coordinates, landmark_basis, project
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.coordinate_table import CoordinateTable
from negcache.stores.gathered import Gathered, Held, bytes_of
from negcache.stores.low_rank_refresh import LowRankRefresh
from negcache.stores.observers import Observers
from negcache.stores.reencoders import Ridge
from negcache.validation import check_finite, check_ids


class LowRankCache:
    """Coordinates ``z = [Q^T e, 1]`` of all items, Q a basis of a few landmarks' span.

    Every ``every`` steps ``sample`` random items are encoded anew and the re-encoder learns the way
    from their coordinates to what they look like; when that no longer works, all items are encoded
    and projected anew. Rows that a step encodes are not written, unless the item has none yet.
    Observers hear of coordinates. A file is no checkpoint: it starts empty, and after a crash the
    rows come from a saved state or a new fill. Among several processes each has the coordinates of
    its share of the items; landmarks, samples and what is learned from them are the same on all, so
    all call each method together. Source: Monath et al., AISTATS 2023, section 4.

    Args:
        num_items: N; a row's number is its item id.
        dim: D, as the towers give it.
        landmarks: L, the most columns besides the ones.
        every: steps between two refreshes.
        sample: items encoded at a refresh.
        reencoder: None: anchored ``Ridge``.
        full_below: a full pass is due where the held-out cosine of a refresh is below this share of
            what projection alone left at the last pass (1 where landmarks span all); 0: never.
        path: of a file to map the coordinates from, one for each process; None: ordinary memory.
        dtype: of the stored coordinates; they are read as float32 at least. int8: a scale for each
            row besides, a quarter of the memory; every move of the basis rounds anew.
        device: of all else.
        seed: of landmarks and samples; the same on all processes.
        mesh: the processes that hold the coordinates, each its share; None: those that train
            together now, ``Mesh.now()``.
    """

    coverage = 1.0
    log_weights = None
    quantized = None
    is_live = False

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        landmarks: int = 128,
        every: int = 100,
        sample: int = 8192,
        reencoder: Reencoder | None = None,
        full_below: float = 0.9,
        path: Path | str | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        if not 0 <= full_below <= 1:
            raise InputError("full_below from 0 to 1", f"{full_below}", "0.9 is the default")
        self.shard = Shard.of(Mesh.now() if mesh is None else mesh, num_items)
        self.dim, self.most, self.full_below = dim, landmarks, full_below
        columns, device = min(landmarks, num_items, dim), torch.device(device)
        self.table = CoordinateTable(self.shard, columns, dtype, device, path)
        self.basis = torch.zeros(dim, 0, dtype=self.table.exact, device=device)
        self.refresh = LowRankRefresh(
            self.shard, self.basis, landmarks=landmarks, every=every, size=sample, seed=seed
        )
        self.reencoder: Reencoder = Ridge() if reencoder is None else reencoder
        self.observers, self.fits = Observers(), 0
        self.cosine: float | None = None

    def __len__(self) -> int:
        return self.num_items

    @property
    def num_items(self) -> int:
        return self.shard.total

    @property
    def num_rows(self) -> int:
        return self.shard.size

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        """Whether the item has coordinates."""
        return self.table.valid

    @property
    def clock(self) -> int:
        return self.refresh.clock

    @property
    def held(self) -> Held:
        """What is held at most; landmarks and samples never together."""
        rows = min(max(self.most, self.refresh.size), self.num_items)
        width = self.dim * self.table.exact.itemsize
        flags = [self.table.valid, self.table.removed]
        fixed = bytes_of([*flags, self.basis, self.reencoder.state_dict()])
        return Held(rows, rows * width + fixed, self.table.stored.nbytes + self.table.scales.nbytes)

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.local(ids)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.shard.ids(slots)

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """Coordinates, as they were encoded; ``reencoder`` reads them."""
        return self.table.rows(slots)

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        return self.table.chunks(size)

    def missing(self) -> Int[Tensor, "R"]:
        """Items without coordinates that this process has to encode.

        Landmarks come first, since the others are projected on their span: as many on each process,
        whoever holds their rows.
        """
        return self.refresh.missing(self.table)

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Take fresh rows of distinct items: what is due, and items that have no coordinates.

        Until every landmark is known, other items are passed over and stay ``missing``; so are
        those that other processes hold. While landmarks or a sample are waited for, the processes
        pass them to one another here.

        Raises:
            InputError: rows of other dimensions, or not finite.
        """
        if rows.shape[1] != self.dim:
            raise InputError(
                f"rows of the store's {self.dim} dimensions",
                f"{rows.shape[1]}",
                "give the store the output dimensions of the item tower",
            )
        rows = check_finite(rows.detach().to(self.basis), ids)
        landmarks = self.refresh.take(ids, rows)
        if landmarks is not None:
            self._start(landmarks)
        if self.refresh.landmarks is None:
            self._put(ids, rows)

    @torch.no_grad()
    def plan(self) -> Int[Tensor, "R"]:
        """What is missing; after a pass and every ``every`` steps a sample; or a full pass.

        Asked again after ``commit``, it names what has not been written yet.
        """
        return self.refresh.plan(self.table, fitted=self.fits > 0)

    @torch.no_grad()
    def commit(self) -> None:
        """The sample is waited for; a full pass begins."""
        if self.refresh.commit(self.table, fitted=self.fits > 0):
            self.valid.fill_(False)
            self.observers.invalidate()

    @torch.no_grad()
    def step(self) -> None:
        """One optimizer step has passed; a refresh whose rows have all come is learned from."""
        sample = self.refresh.step()
        if sample is not None:
            self._learn(sample)

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """These items, and those that other processes name, are no negatives any more.

        They are not encoded again.

        Raises:
            InputError: fewer than 2 items would be left, or none of some process' rows; or there is
                no such item.
        """
        ids = self._named(ids)
        slots, removed = self._held(ids), self.table.removed.clone()
        removed[slots] = True
        _check_left(*self.shard.mesh.each(int((~removed).sum())))
        gone = slots[self.valid[slots]]
        with self.observers.change(self, gone):
            self.valid[gone] = False
        self.table.removed[slots] = True
        self.refresh.forget(ids, removed)

    def add(self, ids: Int[Tensor, "M"]) -> None:
        """Removed items are back, those of all processes: planned at the end of the step."""
        self.table.removed[self._held(self._named(ids))] = False

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change of coordinates, as long as somebody holds it."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        """States of several processes add up to that of one."""
        own = {name: getattr(self, name) for name in ("basis", "fits", "cosine")}
        parts = {name: getattr(self, name) for name in ("table", "refresh", "reencoder")}
        own |= {name: part.state_dict() for name, part in parts.items()}
        return own | self.observers.state_dict(self.shard)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state of fewer items is that of the first ones; the others are missing."""
        count, columns = state["table"]["rows"], state["table"]["columns"]
        dim = len(state["basis"])
        if count > self.num_items or dim != self.dim or columns != min(self.most, count, dim):
            raise InputError(
                f"at most {self.num_items} items, {self.dim} dimensions, {self.most} landmarks",
                f"{count} items, {dim} dimensions, {columns} columns",
                "build the store as it was when saved; only items may be added, at the end",
            )
        self.table.load_state_dict(state["table"])
        self.refresh.load_state_dict(state["refresh"])
        self.fits, self.cosine = state["fits"], state["cosine"]
        self.basis = state["basis"].clone().to(self.basis)
        if self.basis.numel():
            self.reencoder.start(self.basis)  # brings it to the device; the state comes after
        self.reencoder.load_state_dict(state["reencoder"])
        self.observers.load_state_dict(state if count == self.num_items else {}, self.shard)

    def _named(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "_"]:
        """The items that any process names. Raises InputError."""
        (sizes,) = self.shard.mesh.each(len(ids))
        ids = self.shard.mesh.gather(ids, sizes).unique()
        check_ids(ids, self.num_items)
        return ids

    def _held(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "_"]:
        """Slots of those that are here."""
        slots = self.slots(ids)
        return slots[slots >= 0]

    def _start(self, landmarks: Gathered) -> None:
        """All landmarks are known: coordinates from here on are projections on their span."""
        self.basis, self.fits = landmark_basis(landmarks.rows), 0
        self.table.rank = self.basis.shape[1]
        self.reencoder.start(self.basis)
        self.observers.invalidate()
        self._put(landmarks.ids, landmarks.rows)
        self.table.kept.zero_()  # landmarks lie in the span, other items only in part

    def _put(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Of items here that have none, coordinates that the re-encoder of today reads as these."""
        slots = self.slots(ids)
        new = (slots >= 0) & ~(self.valid | self.table.removed)[slots]
        slots, rows = slots[new], rows[new]
        if not len(slots):
            return
        if self.fits:
            found = find_coordinates(rows, self.reencoder.full, self.table.rank)
        else:
            found = project(rows, self.basis)
            self.table.note(slots, found[:, :-1].norm(dim=1) / rows.norm(dim=1).clamp_min(1e-30))
        with self.observers.change(self, slots):
            self.table.write(slots, found)

    def _learn(self, sample: Gathered) -> None:
        """Fit the re-encoder to a refresh; a full pass is due if that is not enough."""
        if len(sample.ids) < 2:
            return
        mesh, slots = self.shard.mesh, self.slots(sample.ids)
        stale = mesh.from_owners(self.rows(slots.clamp_min(0)), (slots >= 0)[:, None])
        cosine = stale.new_tensor([self.reencoder.fit(stale, sample.rows)], dtype=torch.float64)
        first = torch.full_like(cosine, mesh.rank == 0, dtype=torch.bool)
        self.cosine, self.fits = float(mesh.from_owners(cosine, first)), self.fits + 1
        move = self.reencoder.take_move()
        if move is not None:
            self.table.move(move)
            self.observers.invalidate()
        total, count = mesh.total(self.table.kept.sum(dim=0)).tolist()
        wanted = self.full_below * (total / count if count else 1.0)
        self.refresh.full_due = wanted > 0 and not self.cosine >= wanted


def _check_left(left: list[int]) -> None:
    """Of the items of every process. Raises InputError."""
    if sum(left) < 2:
        raise InputError("at least 2 items left", f"{sum(left)}", "a softmax needs a negative")
    if not min(left):
        raise InputError(
            "an item left of the rows of every process",
            f"none on process {left.index(0)}",
            "leave one, or start fewer processes: an index has clusters of its own rows",
        )
