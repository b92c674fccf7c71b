"""What happened in a training step: kept as tensors, turned into numbers when asked for."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from negcache.protocols import Cache, Draw, StepReport
from negcache.shapes import Float, Int, Tensor


class Trace:
    """Collects the figures of the steps since the last report."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.losses: Tensor | None = None
        self.terms: Tensor | None = None
        self.staleness: Tensor | None = None
        self.masked: Tensor | None = None
        self.figures: dict[str, float] = {}
        self.encoded_grad = self.encoded_nograd = 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of a block to the stage's seconds."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start

    def note(self, losses: Tensor, terms: Tensor, draw: Draw, encoded: int) -> None:
        """Remember one forward pass: its losses, its terms, the sampler's draw."""
        self.losses, self.terms = losses.detach(), terms.detach()
        self.masked, self.figures = draw.log_weight == -torch.inf, draw.figures
        self.encoded_grad += encoded

    def look(self, cache: Cache, ids: Int[Tensor, "M"], fresh: Float[Tensor, "M D"]) -> None:
        """Compare the cache's rows of these items with fresh ones; a live table has no others."""
        if cache.is_live:
            self.staleness = fresh.new_zeros(1)
            return
        slots = cache.slots(ids)
        held = slots >= 0
        self.compare(cache.rows(slots[held]), fresh[held])

    def compare(self, cached: Float[Tensor, "M D"], fresh: Float[Tensor, "M D"]) -> None:
        """Remember how far cached rows had drifted: ||cached - fresh||^2 / ||fresh||^2."""
        drift = (cached.to(fresh.dtype) - fresh).square().sum(1)
        self.staleness = drift / fresh.square().sum(1).clamp_min(torch.finfo(fresh.dtype).tiny)

    def report(self) -> StepReport:
        """The figures of the last step and the counts since the last report; then start anew."""
        report = StepReport(
            loss=_mean(self.losses),
            effective_sample_size=_mean(effective_sample_size(self.terms)),
            staleness=_mean(self.staleness),
            masked_hits=_mean(self.masked),
            encoded_grad=self.encoded_grad,
            encoded_nograd=self.encoded_nograd,
            seconds=dict(self.seconds),
            sampler=self.figures,
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
