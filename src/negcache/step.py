"""One step of sampled softmax as pure functions: draw -> encode each item once -> terms -> loss."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from negcache.distributed import ALONE, Mesh
from negcache.draws import draw, given
from negcache.estimators import log_q_corrected, softmax_loss
from negcache.exclusion import Exclusion
from negcache.interfaces import Estimator, Known, Sampler
from negcache.messages import Draw, Request, in_rows
from negcache.ops.pool_sum import LogSums, log_sums, pool_sums
from negcache.ops.rest import item_grad_scale, linear_term
from negcache.score import Score, is_product
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_known

Draws = list[tuple[Draw, Estimator]]
"""Draws over disjoint items, and what makes terms of each; the sampler's is the first."""


class Encoded(NamedTuple):
    """The items of a step, each distinct one encoded once.

    Args:
        ids: of the items.
        rows: their embeddings, with gradient.
        targets: those of each query, [B, p, D]; padding is a positive of the same query.
        drawn: those of each draw.
    """

    ids: Int[Tensor, "M"]
    rows: Float[Tensor, "M D"]
    targets: Float[Tensor, "B p D"]
    drawn: list[Tensor]

    def of(self, rows: slice) -> "Encoded":
        """The targets of some of the queries, and all that was drawn."""
        return self._replace(targets=self.targets[rows])


class SampledLoss(NamedTuple):
    """-log p+ of each query (nats), and sums of the terms of its partition function.

    Args:
        losses: with gradient.
        log_sum: of the terms beside the positive, detached.
        log_squares: of their squares.
    """

    losses: Float[Tensor, "B"]
    log_sum: Float[Tensor, "B"]
    log_squares: Float[Tensor, "B"]


def exclusion_of(
    positives: Int[Tensor, "B *p"],
    num_items: int,
    known_positives: Known | None = None,
    query_ids: Int[Tensor, "B"] | None = None,
) -> Exclusion:
    """What may not stand for each query: its known positives, and its targets of this batch.

    Raises:
        InputError: a known positive is no item of the corpus.
    """
    several = in_rows(positives)
    rows, columns = (several >= 0).nonzero(as_tuple=True)
    if known_positives is None or query_ids is None:
        return Exclusion.from_pairs(rows, several[rows, columns], len(several))
    known = known_positives.exclusion(query_ids, several.amax(dim=1))
    check_known(known.ids, num_items)
    return known if positives.ndim == 1 else known.and_also(rows, several[rows, columns])


def draw_negatives(
    sampler: Sampler,
    estimator: Estimator,
    request: Request,
    generator: torch.Generator,
    negatives: Int[Tensor, "B h"] | None = None,
) -> Draws:
    """The sampler's draw, and the user's own negatives, over disjoint items."""
    own: Draws = []
    if negatives is not None:
        mine = given(negatives, request.exclude, request.queries.dtype)
        own.append((mine, log_q_corrected))
        request = request.excluding(negatives)
    with torch.autocast(request.queries.device.type, enabled=False):  # laws: float32 at least
        return [(draw(sampler, request, generator), estimator), *own]


def encode_once(
    positives: Int[Tensor, "B *p"],
    draws: Draws,
    encode: Callable[[Int[Tensor, "M"]], Float[Tensor, "M D"]],
) -> Encoded:
    """Every distinct item of the step through the tower, once."""
    several = in_rows(positives)
    padded = several.where(several >= 0, several.amax(dim=1, keepdim=True))  # encoded anyway
    wanted = [padded.flatten(), *(drawn.ids for drawn, _ in draws)]
    ids, place = torch.unique(torch.cat(wanted), return_inverse=True)
    rows = encode(ids)
    places = place.split([len(part) for part in wanted])
    targets, *drawn = (nn.functional.embedding(where, rows) for where in places)
    return Encoded(ids, rows, targets.view(*several.shape, -1), drawn)


def sampled_loss(
    queries: Float[Tensor, "B D"],
    positives: Int[Tensor, "B *p"],
    items: Encoded,
    draws: Draws,
    score: Score,
) -> SampledLoss:
    """Fresh scores of the positives and of what was drawn, and what is left to the store."""
    sums = []
    for rows, (drawn, estimator) in zip(items.drawn, draws, strict=True):
        if drawn.rest is not None:
            rows = item_grad_scale(rows, drawn.rest.inclusion)
            rest = drawn.rest.log_mass, drawn.rest.mean
            sums.append(log_sums(linear_term(*rest, queries, score.scale)))
        sums.append(_sums_of(queries, rows, drawn, estimator, score))
    parts, squares = (torch.stack(each, dim=1) for each in zip(*sums, strict=True))
    losses = softmax_loss(score.paired(queries, items.targets), parts)
    found = (torch.logsumexp(each.detach(), dim=1) for each in (parts, squares))
    return SampledLoss(mean_of_positives(losses, positives), *found)


def _sums_of(
    queries: Float[Tensor, "B D"],
    rows: Float[Tensor, "M D"],
    drawn: Draw,
    estimator: Estimator,
    score: Score,
) -> LogSums:
    """The terms of one draw, summed up: in one pass where they are scaled products and weights."""
    if drawn.masked is not None and estimator is log_q_corrected and is_product(score):
        return pool_sums(queries * score.scale, rows, drawn.weight, drawn.masked)
    return log_sums(estimator(fresh_scores(queries, rows, drawn, score), drawn))


def mean_of_positives(
    losses: Float[Tensor, "B p"], positives: Int[Tensor, "B *p"]
) -> Float[Tensor, "B"]:
    """The mean of each query's own losses: padding counts for nothing."""
    real = positives.view(losses.shape) >= 0
    return losses.where(real, 0.0).sum(dim=1) / real.sum(dim=1)


def reduced(
    losses: Float[Tensor, "B"],
    weight: Float[Tensor, "B"] | None,
    reduction: str,
    mesh: Mesh = ALONE,
) -> Float[Tensor, "*B"]:
    """As torch's losses reduce: "none", "sum", or "mean", ``sum(w l) / sum(w)`` with weights.

    Args:
        mesh: processes whose gradients are averaged: the average of their means is the mean over
            the global batch, also where they have unequal batches.
    """
    weighted = losses if weight is None else losses * weight.to(losses.dtype)
    if reduction == "none":
        return weighted
    if reduction == "sum" or (weight is None and mesh.size == 1):
        return weighted.sum() if reduction == "sum" else weighted.mean()
    each = torch.ones_like(losses) if weight is None else weight.to(losses.dtype)
    return weighted.sum() * mesh.size / mesh.total(each.sum())


def fresh_scores(
    queries: Float[Tensor, "B D"], rows: Float[Tensor, "M D"], drawn: Draw, score: Score
) -> Float[Tensor, "B k"]:
    """Scores in the columns of the draw: one matrix product, or each query its own."""
    if drawn.columns is None:
        return score(queries, rows)
    return score.paired(queries, nn.functional.embedding(drawn.columns, rows))
