"""Which items a low-rank cache encodes anew, and when: landmarks, samples, full passes."""

from typing import Any, NamedTuple

import torch

from negcache.errors import InputError
from negcache.ops.shards import Shard, some_of_all
from negcache.ops.uniform import draw_distinct
from negcache.shapes import Bool, Float, Int, Tensor
from negcache.stores.coordinate_table import CoordinateTable
from negcache.stores.gathered import Gathered


class Awaited(NamedTuple):
    """What is waited for: landmarks of a new basis, a sample to learn from.

    Args:
        whole: a full pass begins: no row is valid until it has been encoded anew.
    """

    landmarks: Gathered | None
    sample: Gathered | None
    whole: bool


class LowRankRefresh:
    """Landmarks and samples are random items, the same on all processes, which deal them out.

    Args:
        shard: the coordinates that are here.
        like: an empty tensor [D, 0] of the dtype and on the device of embeddings.
        landmarks: chosen at a full pass, at most.
        every: steps between two samples.
        size: of a sample.
        seed: of both.

    Attributes:
        landmarks: of the pass that has begun; None: all are known.
        sample: that is waited for, or complete until the step has passed; None: there is none.
        clock: optimizer steps that have passed.
        full_due: a full pass begins with the next plan.
    """

    def __init__(
        self, shard: Shard, like: Tensor, *, landmarks: int, every: int, size: int, seed: int
    ) -> None:
        _check_settings(shard.total, landmarks, every, size)
        self.shard, self.like = shard, like
        self.most, self.every, self.size = landmarks, every, size
        self.generator = torch.Generator().manual_seed(seed)
        self.clock, self.full_due = 0, False
        chosen = draw_distinct(shard.total, landmarks, self.generator)
        self.landmarks: Gathered | None = Gathered.of(chosen, like)
        self.sample: Gathered | None = None

    def missing(self, table: CoordinateTable) -> Int[Tensor, "R"]:
        """Items without coordinates that this process encodes: its part of the landmarks first."""
        return self._outstanding(self.landmarks, table.valid, table.removed)

    def plan(self, table: CoordinateTable, fitted: bool) -> Int[Tensor, "R"]:
        """What is missing, or all in a full pass; and the part of the sample that is encoded here.

        Args:
            fitted: whether a re-encoder has been fitted since the last full pass.
        """
        landmarks, sample, whole = self._next(table, fitted, self.generator.clone_state())
        valid = torch.zeros_like(table.valid) if whole else table.valid
        waiting = [] if sample is None else [sample.to_come(self.shard.mesh)]
        return torch.cat([self._outstanding(landmarks, valid, table.removed), *waiting])

    def commit(self, table: CoordinateTable, fitted: bool) -> bool:
        """Wait for what was planned; whether a full pass begins."""
        self.landmarks, self.sample, whole = self._next(table, fitted, self.generator)
        self.full_due = self.full_due and not whole
        return whole

    def take(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> Gathered | None:
        """Keep what is waited for; the landmarks, once, when all are known."""
        for each in (self.sample, self.landmarks):
            if each is not None and not each.complete:
                each.take(ids, rows, self.shard.mesh)
        if self.landmarks is None or not self.landmarks.complete:
            return None
        known, self.landmarks = self.landmarks, None
        return known

    def step(self) -> Gathered | None:
        """One optimizer step has passed; the sample, once, when all of it has come."""
        self.clock += 1
        if self.sample is None or not self.sample.complete:
            return None
        known, self.sample = self.sample, None
        return known

    def forget(self, ids: Int[Tensor, "M"], removed: Bool[Tensor, "S"]) -> None:
        """These items have been removed: nobody waits for them."""
        if self.sample is not None:
            self.sample = self.sample.without(ids)
        if self.landmarks is not None:
            self.landmarks = self._choose(~removed, self.most, self.generator)

    def state_dict(self) -> dict[str, Any]:
        """The same on all processes."""
        own: dict[str, Any] = {"clock": self.clock, "full_due": self.full_due}
        for name, each in (("landmarks", self.landmarks), ("sample", self.sample)):
            own[name] = None if each is None else each.state_dict()
        return own | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clock, self.full_due = state["clock"], state["full_due"]
        landmarks, sample = (
            None if state[name] is None else Gathered.from_state(state[name], self.like.device)
            for name in ("landmarks", "sample")
        )
        self.landmarks, self.sample = landmarks, sample
        self.generator.set_state(state["generator"].cpu())

    def _outstanding(
        self, landmarks: Gathered | None, valid: Bool[Tensor, "S"], removed: Bool[Tensor, "S"]
    ) -> Int[Tensor, "R"]:
        wanted = ~(valid | removed)
        if landmarks is None:
            return self.shard.ids(wanted.nonzero().squeeze(1))
        slots = self.shard.local(landmarks.ids)
        wanted[slots[slots >= 0]] = False
        others = self.shard.ids(wanted.nonzero().squeeze(1))
        return torch.cat([landmarks.to_come(self.shard.mesh), others])

    def _next(self, table: CoordinateTable, fitted: bool, generator: torch.Generator) -> Awaited:
        """What is waited for after this step."""
        if self.full_due:
            landmarks = self._choose(~table.removed, self.most, generator)
            return Awaited(landmarks, None, whole=True)
        now = (self.clock + 1) % self.every == 0 or not fitted  # a map beats bare projection
        sample = self.sample
        if now and self.landmarks is None and sample is None:
            sample = self._choose(table.valid, self.size, generator)
            sample = sample if len(sample.ids) else None
        return Awaited(self.landmarks, sample, whole=False)

    def _choose(self, among: Bool[Tensor, "S"], count: int, generator: torch.Generator) -> Gathered:
        """A place for the rows of random items of all processes."""
        ids = self.shard.ids(among.nonzero().squeeze(1))
        return Gathered.of(some_of_all(self.shard.mesh, ids, count, generator), self.like)


def _check_settings(num_items: int, landmarks: int, every: int, sample: int) -> None:
    if num_items < 2:
        raise InputError("at least 2 items", f"{num_items}", "a softmax needs a negative")
    if min(landmarks, every) < 1 or sample < 10:
        raise InputError(
            "landmarks and every of 1 or more, a sample of 10 or more",
            f"{landmarks}, {every} and {sample}",
            "128, 100 and 8192 are the defaults",
        )
