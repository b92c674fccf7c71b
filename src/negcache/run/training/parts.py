"""What a training loop is given: it meets towers, losses and data only through these."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from negcache.interfaces import Corpus
from negcache.messages import Batch, StepReport
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class Loss(Protocol):
    """A loss that keeps a cache: what the loop asks of it."""

    item_tower: nn.Module
    score: Any

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
        queries: features of the queries by row, with ``.to(device)``.
        pairs: (query rows, item ids) of the training pairs.
        query_tower: features -> (B, D).
        loss_fn: owns the item tower, the score, the cache and the sampler.
        optimizer: over the parameters of both, each once.
        scheduler: of its learning rate; made over the optimizer itself, before it is prepared.
        fingerprint: of the data; a run resumes on equal data only.
        evaluate: measures the dev split; None where there is none.
        negatives: the user's own of every query, [Q, h] item ids padded with -1.
    """

    queries: Corpus
    pairs: tuple[Int[Tensor, "P"], Int[Tensor, "P"]]
    query_tower: nn.Module
    loss_fn: Loss
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    fingerprint: str
    evaluate: Callable[[], dict[str, float]] | None = None
    negatives: Int[Tensor, "Q h"] | None = None

    def batch(self, numbers: Int[Tensor, "B"], device: torch.device) -> Batch:
        """The training pairs with these numbers."""
        queries, items = (side[numbers] for side in self.pairs)
        features = self.queries[queries].to(device)
        own = None if self.negatives is None else self.negatives[queries].to(device)
        return Batch(features, items.to(device), queries.to(device), own)

    def state_dict(self) -> dict[str, Any]:
        """State of all that learns or draws, the global generator included."""
        state = {
            "query_tower": self.query_tower.state_dict(),
            "item_tower": self.loss_fn.item_tower.state_dict(),
            "score": self.loss_fn.score.state_dict(),
            "loss": self.loss_fn.own_state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` saved."""
        self.query_tower.load_state_dict(state["query_tower"])
        self.loss_fn.item_tower.load_state_dict(state["item_tower"])
        self.loss_fn.score.load_state_dict(state["score"])
        self.loss_fn.load_own_state(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and "cuda_rng" in state:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
