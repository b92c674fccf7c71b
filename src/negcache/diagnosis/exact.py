"""The softmax over all items itself: what it sums to, its gradient, and how peaked it is.

Float64, a few items at a time: nothing of size [B, N] is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.messages import Request, in_rows
from negcache.score import is_product
from negcache.shapes import Float64, Int, Tensor

HELD = 1 << 21
"""Scores held at a time."""

CUTS = 16
"""How often the chance of an item may be cut to a quarter: see `Exact.cut`."""


@dataclass(frozen=True)
class Exact:
    """Of some queries, over all items that may stand for each.

    Args:
        losses: -log p+, the mean over a query's positives, in nats.
        log_z: log of the sum of exp(s) over the negatives.
        queries: gradient of the mean loss to the queries.
        items: the same to each item of the sample.
        cut: sums over the negatives of ``min(p, 4^-c)``, p being their softmax.
        entropy: of that softmax, in nats.
        log_z_error: standard error of ``log_z``, where items are a sample.
        query_error: squared standard error of the whole of ``queries``; NaN: it is not known.
    """

    losses: Float64[Tensor, "B"]
    log_z: Float64[Tensor, "B"]
    queries: Float64[Tensor, "B D"]
    items: Float64[Tensor, "n D"]
    cut: Float64[Tensor, "B 16"]
    entropy: Float64[Tensor, "B"]
    log_z_error: Float64[Tensor, "B"]
    query_error: float


def blocks(
    request: Request, sample: ItemSample
) -> Iterator[tuple[slice, Int[Tensor, "c"], tuple[Tensor, Tensor]]]:
    """Some items of the sample at a time: where they stand, their ids, the (query, column) pairs
    that may not stand."""
    step = max(1, HELD // max(1, len(request.queries)))
    for first in range(0, len(sample.ids), step):
        some = slice(first, min(first + step, len(sample.ids)))
        ids = sample.ids[some]
        yield some, ids, request.exclude.among(ids)


def log_chances(
    request: Request, items: FreshItems, ids: Int[Tensor, "c"], masked: tuple[Tensor, Tensor]
) -> Float64[Tensor, "B c"]:
    """Scores of these items; -inf where they may not stand."""
    logits = request.score(request.queries.double(), items(ids))
    logits[masked] = -torch.inf
    return logits


@torch.no_grad()
def exact(request: Request, items: FreshItems, sample: ItemSample) -> Exact:
    """Over the items of a sample, each with its weight."""
    parts = blocks(request, sample)
    found = [
        torch.logsumexp(log_chances(request, items, ids, masked) + sample.weight[some].log(), dim=1)
        for some, ids, masked in parts
    ]
    log_z = torch.logsumexp(torch.stack(found), dim=0)
    several = in_rows(request.positives)
    real = several >= 0
    padded = several.where(real, several.amax(dim=1, keepdim=True))
    targets = items(padded.flatten()).double().view(*padded.shape, -1)
    positive = request.score.paired(request.queries.double(), targets)
    share = real.double() / real.sum(dim=1, keepdim=True)
    gap = log_z[:, None] - positive
    losses = (torch.nn.functional.softplus(gap) * share).sum(dim=1)
    missed = torch.sigmoid(gap) * share
    sums = _Sums(request, items, sample, log_z, missed.sum(dim=1))
    for block in blocks(request, sample):
        sums.add(*block)
    sums.add_positives(padded, targets, missed)
    errors = sums.errors() if not sample.is_all else (torch.zeros_like(log_z), 0.0)
    return Exact(losses, log_z, sums.queries, sums.items, sums.cut, sums.entropy, *errors)


class _Sums:
    """The second pass: the sum over all items is known."""

    def __init__(
        self, request: Request, items: FreshItems, sample: ItemSample, log_z: Tensor, missed: Tensor
    ) -> None:
        self.request, self.fresh, self.sample = request, items, sample
        # a query without a negative has none to be missed
        self.log_z = log_z.masked_fill(log_z == -torch.inf, 0.0)
        self.missed = missed
        self.leaf = request.queries.double()
        self.queries = torch.zeros_like(self.leaf)
        self.items = self.leaf.new_zeros(len(sample.ids), self.leaf.shape[1])
        self.cut = self.leaf.new_zeros(len(self.leaf), CUTS)
        self.entropy = self.leaf.new_zeros(len(self.leaf))

    def chances(self, ids: Tensor, masked: tuple[Tensor, Tensor]) -> Float64[Tensor, "B c"]:
        """log p of each among the negatives."""
        return log_chances(self.request, self.fresh, ids, masked) - self.log_z[:, None]

    def add(self, some: slice, ids: Tensor, masked: tuple[Tensor, Tensor]) -> None:
        log_p, weight = self.chances(ids, masked), self.sample.weight[some]
        p = log_p.exp()
        self.entropy -= (p * log_p.masked_fill(log_p == -torch.inf, 0.0)) @ weight
        for place in range(CUTS):
            self.cut[:, place] += p.clamp(max=4.0**-place) @ weight
        pulls = p * weight * self.missed[:, None] / len(p)
        by_query, by_item = self._pulled(self.fresh(ids).double(), pulls)
        self.queries += by_query
        self.items[some] += by_item / weight[:, None]

    @torch.enable_grad()
    def _pulled(self, rows: Tensor, pulls: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the scores, each times its pull, to queries and rows."""
        queries, rows = self.leaf.detach().requires_grad_(), rows.detach().requires_grad_()
        score = self.request.score
        by_query, by_item = torch.autograd.grad(
            (score(queries, rows) * pulls).sum(), (queries, rows)
        )
        return by_query, by_item

    @torch.enable_grad()
    def add_positives(self, padded: Tensor, targets: Tensor, missed: Tensor) -> None:
        """What each positive is pulled up by."""
        queries, rows = self.leaf.detach().requires_grad_(), targets.detach().requires_grad_()
        pulls = -missed / len(missed)
        summed = (self.request.score.paired(queries, rows) * pulls).sum()
        by_query, by_item = torch.autograd.grad(summed, (queries, rows))
        self.queries += by_query
        places = self.sample.places(padded.flatten())
        self.items.index_add_(0, places, by_item.flatten(0, 1))

    def errors(self) -> tuple[Float64[Tensor, "B"], float]:
        """Of a sample: standard error of log Z, and squared of the gradient to the queries.

        By linearisation; the mean of the sampled is not taken off, which errs upwards.
        """
        scale = float(self.request.score.scale) if is_product(self.request.score) else float("nan")
        spread, squares = torch.zeros_like(self.log_z), torch.zeros_like(self.log_z)
        means = self.leaf.new_zeros(self.leaf.shape)
        for step in range(2):  # the mean embedding first
            for some, ids, masked in blocks(self.request, self.sample):
                each = self.chances(ids, masked).exp() * self.sample.weight[some]
                rows = self.fresh(ids).double()
                if step == 0:
                    means += each @ rows
                    continue
                each *= (1 - 1 / self.sample.weight[some]).sqrt()
                away = torch.cdist(means, rows).square()
                squares += each.square().sum(dim=1)
                spread += (each.square() * away).sum(dim=1)
        whole = (spread * (self.missed * scale / len(spread)).square()).sum()
        return squares.sqrt(), float(whole)
