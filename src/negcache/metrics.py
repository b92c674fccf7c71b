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
        self.sizes: Tensor | None = None
        self.staleness: Tensor | None = None
        self.draw: Draw | None = None
        self.encoded_grad = self.encoded_nograd = 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of a block to the stage's seconds."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def record_step(
        self, losses: Tensor, log_sum: Tensor, log_squares: Tensor, draw: Draw, encoded: int
    ) -> None:
        """One forward pass: its losses, sums of its terms and of their squares, the draw."""
        self.losses, self.draw = losses.detach(), draw
        self.sizes = effective_sample_size(log_sum, log_squares)
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
            effective_sample_size=_mean(self.sizes),
            staleness=_mean(self.staleness),
            masked_hits=float("nan") if self.draw is None else masked_share(self.draw),
            encoded_grad=self.encoded_grad,
            encoded_nograd=self.encoded_nograd,
            seconds=dict(self.seconds),
            sampler={} if self.draw is None else dict(self.draw.metrics),
        )
        self.restart()
        return report


def effective_sample_size(
    log_sum: Float[Tensor, "B"], log_squares: Float[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """``(sum v)^2 / sum v^2`` of each query's terms, between 1 and k; 0 for a query without any."""
    return (2 * log_sum - log_squares).exp().nan_to_num(nan=0.0)


def masked_share(draw: Draw) -> float:
    """The share of the (query, column) pairs of a draw that do not stand; NaN: there are none."""
    lost = draw.weight == -torch.inf
    if draw.masked is None or lost.ndim == 2:
        return _mean(draw.log_weight == -torch.inf)
    rows, columns = draw.masked.num_rows, draw.masked.ids
    pairs = rows * int(lost.sum()) + int((~lost[columns]).sum())
    return pairs / (rows * len(lost)) if rows and len(lost) else float("nan")


def _mean(values: Tensor | None) -> float:
    return float("nan") if values is None or not values.numel() else float(values.double().mean())
