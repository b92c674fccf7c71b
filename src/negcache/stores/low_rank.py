"""Low-rank coordinates of every item, and a re-encoder that says how they look today."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from negcache.errors import InputError
from negcache.interfaces import Observer, Reencoder
from negcache.ops.nystrom import find_coordinates, landmark_basis, project
from negcache.ops.shards import Shard
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.coordinate_table import CoordinateTable, check_settings
from negcache.stores.gathered import Gathered, Held, Refresh, bytes_of
from negcache.stores.observers import Observers
from negcache.stores.reencoders import Ridge
from negcache.validation import check_finite, check_ids


class LowRankCache:
    """Coordinates ``z = [Q^T e, 1]`` of all items, Q a basis of a few landmarks' span.

    Every ``every`` steps ``sample`` random items are encoded anew and the re-encoder learns the way
    from their coordinates to what they look like; when that no longer works, all items are encoded
    and projected anew. Rows that a step encodes are not written, unless the item has none yet.
    Observers hear of coordinates. A file is no checkpoint: it starts empty, and after a crash the
    rows come from a saved state or a new fill. Source: Monath et al., AISTATS 2023, section 4.

    Args:
        num_items: N; a row's number is its item id.
        dim: D, as the towers give it.
        landmarks: L, the most columns besides the ones.
        every: steps between two refreshes.
        sample: items encoded at a refresh.
        reencoder: None: anchored ``Ridge``.
        full_below: a full pass is due where the held-out cosine of a refresh is below this share of
            what projection alone left at the last pass (1 where landmarks span all); 0: never.
        path: of a file to map the coordinates from; None: ordinary memory.
        dtype: of the stored coordinates; they are read as float32 at least.
        device: of all else.
        seed: of landmarks and samples.
    """

    coverage = 1.0
    log_weights = None
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
    ) -> None:
        check_settings(num_items, landmarks, every, sample, full_below)
        self.num_items, self.dim, self.most = num_items, dim, landmarks
        self.every, self.sample, self.full_below = every, sample, full_below
        self.reencoder: Reencoder = Ridge() if reencoder is None else reencoder
        shape, device = (num_items, min(landmarks, num_items, dim)), torch.device(device)
        self.table, self.observers = CoordinateTable(shape, dtype, device, path), Observers()
        self.generator = torch.Generator().manual_seed(seed)
        self.valid = torch.zeros(num_items, dtype=torch.bool, device=device)
        self.removed = torch.zeros_like(self.valid)
        self.basis = torch.zeros(dim, 0, dtype=self.table.exact, device=device)
        self.projected = torch.zeros(2, dtype=torch.float64, device=device)
        self.clock, self.fits, self.full_due = 0, 0, False
        self.cosine: float | None = None
        self.landmarks: Gathered | None = self._choose(~self.removed, landmarks, self.generator)
        self.sampled: Gathered | None = None

    def __len__(self) -> int:
        return self.num_items

    @property
    def shard(self) -> Shard:
        """One process holds all coordinates."""
        return Shard.whole(self.num_items)

    @property
    def num_rows(self) -> int:
        return self.num_items

    @property
    def held(self) -> Held:
        """What is held at most; landmarks and samples never together."""
        rows = min(max(self.most, self.sample), self.num_items)
        width = self.dim * self.table.exact.itemsize
        fixed = bytes_of([self.valid, self.removed, self.basis, self.reencoder.state_dict()])
        return Held(rows, rows * width + fixed, self.table.stored.nbytes)

    def slots(self, ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return ids

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return slots

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M C"]:
        """Coordinates, as they were encoded; ``reencoder`` reads them."""
        return self.table.rows(slots)

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c C"]]]:
        return self.table.chunks(size)

    def missing(self) -> Int[Tensor, "R"]:
        """Items without coordinates, landmarks first: the others are projected on their span."""
        return self._outstanding(self.landmarks, self.valid)

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Take fresh rows of distinct items: what is due, and items that have no coordinates.

        Until every landmark is known, other items are passed over and stay ``missing``.

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
        if self.sampled is not None:
            self.sampled.take(ids, rows)
        if self.landmarks is not None:
            self.landmarks.take(ids, rows)
            if not self.landmarks.complete:
                return
            self._start(self.landmarks)
        new = ~(self.valid | self.removed)[ids]
        self._put(ids[new], rows[new])

    @torch.no_grad()
    def plan(self) -> Int[Tensor, "R"]:
        """What is missing; after a pass and every ``every`` steps a sample; or a full pass.

        Asked again after ``commit``, it names what has not been written yet.
        """
        refresh = self._next(self.generator.clone_state())
        valid = torch.zeros_like(self.valid) if refresh.whole else self.valid
        waiting = [] if refresh.sample is None else [refresh.sample.outstanding]
        return torch.cat([self._outstanding(refresh.landmarks, valid), *waiting])

    @torch.no_grad()
    def commit(self) -> None:
        """The sample is waited for; a full pass begins."""
        self.landmarks, self.sampled, whole = self._next(self.generator)
        if whole:
            self.full_due = False
            self.valid.fill_(False)
            self.observers.invalidate()

    @torch.no_grad()
    def step(self) -> None:
        """One optimizer step has passed; a refresh whose rows have all come is learned from."""
        if self.sampled is not None and self.sampled.complete:
            self._learn(self.sampled)
            self.sampled = None
        self.clock += 1

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """These items are no negatives any more, and are not encoded again.

        Raises:
            InputError: fewer than 2 items would be left, or there is no such item.
        """
        check_ids(ids, self.num_items)
        left = ~self.removed
        left[ids] = False
        if int(left.sum()) < 2:
            raise InputError(
                "at least 2 items left", f"{int(left.sum())}", "a softmax needs a negative"
            )
        gone = ids[self.valid[ids]]
        with self.observers.change(self, gone):
            self.valid[gone] = False
        self.removed[ids] = True
        if self.sampled is not None:
            self.sampled = self.sampled.without(ids)
        if self.landmarks is not None:
            self.landmarks = self._choose(left, self.most, self.generator)

    def add(self, ids: Int[Tensor, "M"]) -> None:
        """Removed items are back: they are planned at the end of the step."""
        check_ids(ids, self.num_items)
        self.removed[ids] = False

    def observe(self, observer: Observer, name: str | None = None) -> None:
        """Tell it of every change of coordinates, as long as somebody holds it."""
        self.observers.add(observer, name)

    def state_dict(self) -> dict[str, Any]:
        names = ("valid", "removed", "basis", "projected", "clock", "fits", "full_due", "cosine")
        own = {name: getattr(self, name) for name in names}
        own |= {"table": self.table.stored, "rank": self.table.rank}
        for name in ("landmarks", "sampled"):
            gathered: Gathered | None = getattr(self, name)
            own[name] = None if gathered is None else gathered.state_dict()
        own |= {"generator": self.generator.get_state(), "reencoder": self.reencoder.state_dict()}
        return own | self.observers.state_dict(self.shard)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A state of fewer items is that of the first ones; the others are missing."""
        (count, columns), dim = state["table"].shape, len(state["basis"])
        if count > self.num_items or dim != self.dim or columns != min(self.most, count, dim):
            raise InputError(
                f"at most {self.num_items} items, {self.dim} dimensions, {self.most} landmarks",
                f"{count} items, {dim} dimensions, {columns} columns",
                "build the store as it was when saved; only items may be added, at the end",
            )
        for name in ("valid", "removed"):
            saved = state[name].clone()  # it may be this cache's own
            getattr(self, name).fill_(False)[:count] = saved
        for name in ("clock", "fits", "full_due", "cosine"):
            setattr(self, name, state[name])
        self.table.load(state["table"])
        self.table.rank = int(state["rank"])
        self.basis = state["basis"].clone().to(self.basis)
        self.projected.copy_(state["projected"])
        for name in ("landmarks", "sampled"):
            saved, device = state[name], self.valid.device
            setattr(self, name, None if saved is None else Gathered.from_state(saved, device))
        if self.basis.numel():
            self.reencoder.start(self.basis)  # brings it to the device; the state comes after
        self.reencoder.load_state_dict(state["reencoder"])
        self.generator.set_state(state["generator"].cpu())
        self.observers.load_state_dict(state if count == self.num_items else {}, self.shard)

    def _outstanding(
        self, landmarks: Gathered | None, valid: Bool[Tensor, "N"]
    ) -> Int[Tensor, "R"]:
        """Items without coordinates, landmarks first."""
        wanted = ~(valid | self.removed)
        if landmarks is None:
            return wanted.nonzero().squeeze(1)
        wanted[landmarks.ids] = False
        return torch.cat([landmarks.outstanding, wanted.nonzero().squeeze(1)])

    def _next(self, generator: torch.Generator) -> Refresh:
        """What the refresh of this step waits for."""
        if self.full_due:
            landmarks = self._choose(~self.removed, self.most, generator)
            return Refresh(landmarks, None, whole=True)
        now = (self.clock + 1) % self.every == 0 or not self.fits  # a map beats bare projection
        sample = self.sampled
        if now and self.landmarks is None and sample is None and bool(self.valid.any()):
            sample = self._choose(self.valid, self.sample, generator)
        return Refresh(self.landmarks, sample, whole=False)

    def _choose(self, among: Bool[Tensor, "N"], count: int, generator: torch.Generator) -> Gathered:
        """A place for the rows of random items."""
        ids = among.nonzero().squeeze(1)
        chosen = torch.randperm(len(ids), generator=generator)[:count]
        return Gathered.of(ids[chosen.to(ids.device)], self.dim, self.basis.dtype)

    def _start(self, landmarks: Gathered) -> None:
        """All landmarks are known: coordinates from here on are projections on their span."""
        self.basis, self.landmarks, self.fits = landmark_basis(landmarks.rows), None, 0
        self.table.rank = self.basis.shape[1]
        self.reencoder.start(self.basis)
        self.observers.invalidate()
        self._put(landmarks.ids, landmarks.rows)
        self.projected.zero_()  # landmarks lie in the span, other items only in part

    def _put(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Coordinates that the re-encoder of today reads as these rows."""
        if not len(ids):
            return
        if self.fits:
            found = find_coordinates(rows, self.reencoder.full, self.table.rank)
        else:
            found = project(rows, self.basis)
            kept = found[:, :-1].norm(dim=1) / rows.norm(dim=1).clamp_min(1e-30)
            self.projected += torch.stack([kept.double().sum(), (rows.new_ones(len(ids))).sum()])
        with self.observers.change(self, ids):
            self.table.write(ids, found)
            self.valid[ids] = True

    def _learn(self, sample: Gathered) -> None:
        """Fit the re-encoder to a refresh; a full pass is due if that is not enough."""
        if len(sample.ids) < 2:
            return
        self.cosine = self.reencoder.fit(self.rows(sample.ids), sample.rows)
        self.fits += 1
        move = self.reencoder.take_move()
        if move is not None:
            self.table.move(move)
            self.observers.invalidate()
        total, count = self.projected.tolist()
        wanted = self.full_below * (total / count if count else 1.0)
        self.full_due = wanted > 0 and not self.cosine >= wanted
