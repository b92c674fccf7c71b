"""What a training loop is given: it meets towers, losses and data only through these."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from negcache.distributed import ALONE, Mesh
from negcache.interfaces import Store
from negcache.messages import Batch, StepReport
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class TrainingData(Protocol):
    """Batches by number: the number of the next one is all that a run remembers of its place.

    Batch n is the same whenever and wherever it is asked for; a process is given its part of it.
    """

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of all that is learnt from, by config key; a run resumes on equal data only."""
        ...

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, batch within the epoch) of the batch ``number``, counted from 0."""
        ...

    def begin(self, number: int, stop: int) -> AbstractContextManager[Iterator[Batch]]:
        """The batches from ``number`` to before ``stop``, on the host.

        Entered before threads are started: processes may be forked there.
        """
        ...


@runtime_checkable
class Loss(Protocol):
    """A loss that keeps a cache: what the loop asks of it."""

    item_tower: nn.Module
    score: Any
    corpus: Any

    @property
    def store(self) -> Store | None: ...

    def __call__(
        self,
        query_rows: Float[Tensor, "B D"],
        positives: Int[Tensor, "B"],
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
        /,
    ) -> Tensor: ...
    def fill_cache(
        self, batch_size: int = ..., progress: Callable[[Iterable[Any]], Iterable[Any]] = ...
    ) -> None: ...
    def step(self) -> None: ...
    def report(self) -> StepReport: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def own_state(self) -> dict[str, Any]: ...
    def load_own_state(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True)
class Parts:
    """Everything a run trains on and with.

    Args:
        data: batches by number.
        query_tower: features -> (B, D).
        loss_fn: owns the item tower, the score, the cache and the sampler.
        optimizer: over the parameters of both, each once.
        scheduler: of its learning rate; made over the optimizer itself, before it is prepared.
        evaluate: measures the dev split; None where there is none.
        mesh: the processes that train together.
    """

    data: TrainingData
    query_tower: nn.Module
    loss_fn: Loss
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    evaluate: Callable[[], dict[str, float]] | None = None
    mesh: Mesh = ALONE

    def state_dict(self) -> dict[str, Any]:
        """State of all that learns or draws, the global generator included."""
        state = {
            "query_tower": self.query_tower.state_dict(),
            "item_tower": self.loss_fn.item_tower.state_dict(),
            "score": self.loss_fn.score.state_dict(),
            "loss": self.loss_fn.own_state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "noise": {self._name: self._noise()},
        }
        return state

    @property
    def _name(self) -> str:
        """Of this process among the others."""
        return f"process {self.mesh.rank} of {self.mesh.size}"

    def _noise(self) -> dict[str, Any]:
        """State of the global generators, which dropout draws from: of this process alone."""
        state: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def wants(self, name: str) -> bool:
        """Whether this process needs what a state calls so: rows that it holds, or any else."""
        store = self.loss_fn.store
        return store is None or store.shard.has(name)

    def load_towers(self, state: dict[str, Any]) -> None:
        """Restore, of what ``state_dict`` saved, what items and queries are scored by."""
        self.query_tower.load_state_dict(state["query_tower"])
        self.loss_fn.item_tower.load_state_dict(state["item_tower"])
        self.loss_fn.score.load_state_dict(state["score"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` saved."""
        self.load_towers(state)
        self.loss_fn.load_own_state(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        own = state["noise"].get(self._name)  # none where another number of processes saved it
        if own is not None:
            torch.set_rng_state(own["cpu"])
            if torch.cuda.is_available() and "cuda" in own:
                torch.cuda.set_rng_state_all(own["cuda"])
