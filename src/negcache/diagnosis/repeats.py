"""The same batch again and again: what each draw makes of its gradient."""

import math
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from negcache.diagnosis.asked import Asked
from negcache.diagnosis.laws import Distance, Law
from negcache.diagnosis.moments import Gradients, Moments
from negcache.diagnosis.weights import Honesty
from negcache.estimators import log_q_corrected
from negcache.interfaces import Estimator, Sampler
from negcache.messages import Draw, in_rows
from negcache.metrics import effective_sample_size
from negcache.shapes import Float, Int, Tensor
from negcache.step import Draws, draw_negatives, encode_once, fresh_scores, sampled_loss

KEPT = 1 << 27
"""Numbers of gradients kept at a time; where draws are so many, fewer repeats are made."""

FEWEST = 4
"""Repeats, whatever they take."""


@dataclass(frozen=True)
class Repeated:
    """What repeated draws for one batch came to.

    Args:
        queries, items: moments of the gradient, by side.
        loss: mean -log p+ under the draws, nats.
        repeats: of the draw.
        encoded: distinct items of a step, positives too; the mean.
        effective: mean effective sample size.
        partitions: estimate of Z- over Z-, mean over the queries, of each repeat.
        honest: the same of the softmax with its peaks cut; see `weights`. Empty where that cannot
            be asked of the draws.
        tells: whether the repeats show all that is random: not where negatives are those of the
            batch, and the batch was held fixed.
        suspected: share of draws that are no true negatives, by how that is known.
        seconds: of a draw.
    """

    queries: Moments
    items: Moments
    loss: float
    repeats: int
    encoded: float
    effective: float
    partitions: list[float]
    honest: list[float]
    tells: bool
    suspected: dict[str, float]
    seconds: float


def repeat(
    sampler: Sampler,
    estimator: Estimator,
    asked: Asked,
    repeats: int,
    generator: torch.Generator,
    law: tuple[Law, Distance] | None = None,
) -> Repeated:
    """Draw so many times; towers, store and sampler are left as they are.

    Args:
        law: of the draws, with its distance from the softmax; None: it is not known.
    """
    uses_batch = _looks_at_targets(sampler, asked)
    first = draw_negatives(sampler, estimator, asked.request, generator)[0][0]
    found = _Found(asked, Honesty(asked.truth, first, law))
    tells = not uses_batch or asked.partners is not None
    for _ in range(repeats):
        request = asked.new_partners(generator) if uses_batch else asked.request
        start = perf_counter()
        draws = draw_negatives(sampler, estimator, request, generator)
        found.seconds += perf_counter() - start
        found.add(draws, request.targets)
        if found.count >= FEWEST and found.numbers * (1 + 1 / found.count) > KEPT:
            break
    return found.done(tells)


def _looks_at_targets(sampler: Sampler, asked: Asked) -> bool:
    """Whether the targets of the batch are among its negatives: others give another draw."""
    own = in_rows(asked.request.positives).amax(dim=1)
    ids = asked.sample.ids
    asks = asked.among(ids[(asked.sample.places(own) + len(ids) // 2) % len(ids)])
    others = replace(asks, positives=own)
    draws = [
        draw_negatives(sampler, log_q_corrected, each, torch.Generator().manual_seed(0))[0][0]
        for each in (asks, others)
    ]
    return not torch.equal(draws[0].ids, draws[1].ids)


class _Found:
    """Adds repeats up."""

    def __init__(self, asked: Asked, honesty: Honesty) -> None:
        self.asked, self.honesty = asked, honesty
        rows = asked.request.queries.new_ones(len(asked.request.queries), dtype=torch.float64)
        self.queries = Gradients(asked.truth.queries, rows)
        self.items = Gradients(asked.truth.items, asked.sample.weight)
        self.count = self.encoded = 0
        self.effective = self.seconds = self.loss = 0.0
        self.partitions: list[float] = []
        self.pairs = 0
        self.suspected = dict.fromkeys(asked.suspects, 0)

    @property
    def numbers(self) -> int:
        return self.queries.numbers + self.items.numbers

    def add(self, draws: Draws, targets: Int[Tensor, "P"]) -> None:
        """The loss and its gradient, as a training step makes them, of fresh embeddings.

        Args:
            targets: of the batch that was drawn for; they are encoded anyway.
        """
        request, drawn = self.asked.request, draws[0][0]
        queries = request.queries.detach().requires_grad_()

        def encode(ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
            return self.asked.items(ids).to(queries.dtype).requires_grad_()

        items = encode_once(request.positives, draws, encode)
        found = sampled_loss(queries, request.positives, items, draws, request.score)
        loss = found.losses.mean()
        sides = torch.autograd.grad(loss, (queries, items.rows))
        self.loss += float(loss.detach())
        self.queries.add(torch.arange(len(queries), device=queries.device), sides[0])
        self.items.add(self.asked.sample.places(items.ids), sides[1])
        self.count += 1
        self.encoded += len(torch.unique(torch.cat([drawn.ids, targets])))
        self.effective += float(effective_sample_size(*found[1:]).double().mean())
        ratio = (found.log_sum.double() - self.asked.truth.log_z).exp()
        self.partitions.append(float(ratio[self.honesty.asks].mean()))
        if drawn.rest is None and len(drawn.ids):
            with torch.no_grad():
                rows = items.drawn[0].detach()
                scores = fresh_scores(request.queries, rows, drawn, request.score)
                self.honesty.add(drawn, scores)
        self._suspect(drawn)

    def _suspect(self, drawn: Draw) -> None:
        alive = drawn.log_weight > -torch.inf
        self.pairs += int(alive.sum())
        for name, table in self.asked.suspects.items():
            if drawn.columns is None:
                wrong = table.mask(drawn.ids) & alive
            else:
                wrong = table.hits(drawn.ids[drawn.columns]) & alive
            self.suspected[name] += int(wrong.sum())

    def done(self, tells: bool) -> Repeated:
        each = 1 / self.count
        shares = {name: _share(wrong, self.pairs) for name, wrong in self.suspected.items()}
        return Repeated(
            self.queries.moments(),
            self.items.moments(),
            self.loss * each,
            self.count,
            self.encoded * each,
            self.effective * each,
            self.partitions,
            self.honesty.ratios,
            tells,
            shares,
            self.seconds * each,
        )


def _share(count: int, total: int) -> float:
    return count / total if total else math.nan
