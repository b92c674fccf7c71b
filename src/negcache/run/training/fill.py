"""The first fill of a cache, which may take hours: kept so far, and gone on with."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.run.atomic import remove
from negcache.run.progress import track
from negcache.run.signals import Stopped
from negcache.run.together import on_first
from negcache.run.training.checkpoint import Checkpoints
from negcache.run.training.parts import Loss


@dataclass(frozen=True)
class FillCheckpoints:
    """Where an interrupted fill has come to: one checkpoint, gone with the next one of the run.

    Args:
        folder: made when the first is saved.
        every: seconds between two.
        mesh: the processes that fill together.
    """

    folder: Path
    every: float
    mesh: Mesh

    def fill(
        self, loss_fn: Loss, step: int, state: Callable[[], Any], stop: Callable[[], int]
    ) -> int:
        """Encode what the store of a loss lacks; rows that it had before.

        Args:
            loss_fn: with a store.
            step: steps that have been made.
            state: of all that is trained.
            stop: number of a signal that all processes have, or 0.

        Raises:
            Stopped: by a signal; what has been encoded is kept.
        """
        before, kept = self._rows(loss_fn), perf_counter()

        def watched(starts: Iterable[int]) -> Iterator[int]:
            nonlocal kept
            for start in track("filling the cache")(starts) if self.mesh.rank == 0 else starts:
                yield start  # once the next is asked for, the rows of this one are written
                late = torch.tensor(int(perf_counter() - kept > self.every))
                number = stop()
                if number or self.mesh.largest(late.to(self.mesh.device)):
                    self._of(step).save(self._rows(loss_fn), state())
                    kept = perf_counter()
                if number:
                    raise Stopped(number)

        loss_fn.fill_cache(progress=watched)
        return before

    def newest(self, saved: int | None) -> Checkpoints | None:
        """Of a fill that was interrupted after this step, if any was.

        Args:
            saved: step of the newest checkpoint of the run; None: there is none.
        """
        step = on_first(self.mesh, self._step)
        return None if step is None or step < (saved or 0) else self._of(step)

    def forget(self) -> None:
        """A checkpoint of the run has all that was kept here."""
        if self.mesh.rank == 0:
            remove(self.folder)

    def _step(self) -> int | None:
        found = [int(path.name) for path in self.folder.glob("[0-9]*")]
        return max((step for step in found if self._of(step).newest is not None), default=None)

    def _of(self, step: int) -> Checkpoints:
        return Checkpoints(self.folder / str(step), 1, self.mesh)

    def _rows(self, loss_fn: Loss) -> int:
        """Rows that the store has, on all processes."""
        store = loss_fn.store
        return 0 if store is None else int(self.mesh.total(store.valid.sum()))
