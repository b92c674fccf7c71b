"""What happened in a training step: kept as tensors, turned into numbers when asked for."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from negcache.interfaces import Store
from negcache.messages import Draw, StepReport
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import embeddings


class Recorder:
    """Collects the metrics of the steps since the last report."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.losses: Tensor | None = None
        self.terms: Tensor | None = None
        self.staleness: Tensor | None = None
        self.masked: Tensor | None = None
        self.sampler: dict[str, float] = {}
        self.encoded_grad = self.encoded_nograd = 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of a block to the stage's seconds."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def record_step(self, losses: Tensor, terms: Tensor, draw: Draw, encoded: int) -> None:
        """One forward pass: its losses, its terms, the sampler's draw."""
        self.losses, self.terms = losses.detach(), terms.detach()
        self.masked, self.sampler = draw.log_weight == -torch.inf, draw.metrics
        self.encoded_grad += encoded

    def record_staleness(
        self, store: Store, ids: Int[Tensor, "M"], fresh: Float[Tensor, "M D"]
    ) -> None:
        """||stored - fresh||^2 / ||fresh||^2 of the rows that the store has of these items."""
        if store.is_live:
            self.staleness = fresh.new_zeros(1)
            return
        slots = store.slots(ids)
        held = (slots >= 0) & store.valid[slots.clamp_min(0)]
        fresh = fresh[held]
        drift = (embeddings(store, slots[held]).to(fresh.dtype) - fresh).square().sum(1)
        self.staleness = drift / fresh.square().sum(1).clamp_min(torch.finfo(fresh.dtype).tiny)

    def report(self) -> StepReport:
        """The metrics of the last step and the counts since the last report; then start anew."""
        report = StepReport(
            loss=_mean(self.losses),
            effective_sample_size=_mean(effective_sample_size(self.terms)),
            staleness=_mean(self.staleness),
            masked_hits=_mean(self.masked),
            encoded_grad=self.encoded_grad,
            encoded_nograd=self.encoded_nograd,
            seconds=dict(self.seconds),
            sampler=self.sampler,
        )
        self.restart()
        return report


def effective_sample_size(log_terms: Float[Tensor, "B k"] | None) -> Float[Tensor, "B"] | None:
    """``(sum v)^2 / sum v^2`` of each query's terms, between 1 and k; 0 for a query without any."""
    if log_terms is None:
        return None
    size = (2 * torch.logsumexp(log_terms, 1) - torch.logsumexp(2 * log_terms, 1)).exp()
    return size.nan_to_num(nan=0.0)


def _mean(values: Tensor | None) -> float:
    return float("nan") if values is None or not values.numel() else float(values.double().mean())
