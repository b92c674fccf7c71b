"""How far a draw's gradient is from the exact one: bias and spread, per tower, in float64."""

from typing import NamedTuple

import torch

import negcache as nc
from negcache.draws import draw
from negcache.estimators import softmax_loss
from negcache.interfaces import Estimator, Sampler
from negcache.messages import Request
from negcache.ops.rest import item_grad_scale, linear_term
from negcache.shapes import Float, Tensor


class Gradient(NamedTuple):
    """Mean loss (nats) and its gradient with respect to queries and items."""

    value: float
    queries: Float[Tensor, "B D"]
    items: Float[Tensor, "N D"]


def exact(request: Request, items: Float[Tensor, "N D"]) -> Gradient:
    """Of the softmax over all items that may stand for each query."""
    return _differentiate(
        nc.FullSoftmax(items), nc.log_q_corrected, request, items, torch.Generator()
    )


def errors(
    sampler: Sampler,
    estimator: Estimator,
    request: Request,
    items: Float[Tensor, "N D"],
    repeats: int,
    seed: int = 0,
) -> dict[str, float]:
    """Bias and standard deviation relative to the norm of the exact gradient, for both towers.

    The bias is freed of what ``repeats`` draws leave of the noise:
    ``||mean - exact||^2 - variance / repeats``, 0 where that is negative.

    Args:
        sampler: over a store as stale as it may be.
        estimator: of its draws.
        request: queries, float64.
        items: fresh embeddings of all items, float64.
        repeats: draws.
        seed: of them.
    """
    truth, generator = exact(request, items), torch.Generator().manual_seed(seed)
    total = [torch.zeros_like(truth.queries), torch.zeros_like(truth.items)]
    squares, value, encoded = [0.0, 0.0], 0.0, 0
    for _ in range(repeats):
        found = _differentiate(sampler, estimator, request, items, generator)
        value += found.value / repeats
        encoded += int((found.items != 0).any(dim=1).sum())
        for side, gradient in enumerate(found[1:]):
            total[side] += gradient / repeats
            squares[side] += float(gradient.square().sum()) / repeats
    figures = {"value_bias": value - truth.value, "encoded": encoded / repeats}
    for name, mean, square, right in zip(("query", "item"), total, squares, truth[1:], strict=True):
        size = float(right.norm())
        variance = max(square - float(mean.square().sum()), 0.0) * repeats / (repeats - 1)
        bias = max(float((mean - right).square().sum()) - variance / repeats, 0.0)
        figures |= {f"{name}_bias": bias**0.5 / size, f"{name}_sd": variance**0.5 / size}
    return figures


def _differentiate(
    sampler: Sampler,
    estimator: Estimator,
    request: Request,
    items: Tensor,
    generator: torch.Generator,
) -> Gradient:
    """One draw's loss as ``SoftmaxLoss`` makes it, over free embeddings."""
    queries = request.queries.clone().requires_grad_()
    items, score = items.clone().requires_grad_(), request.score
    drawn = draw(sampler, request, generator)
    rows, rest = items[drawn.ids], drawn.rest
    if rest is not None:
        rows = item_grad_scale(rows, rest.inclusion)
    if drawn.columns is None:
        logits = score(queries, rows)
    else:
        logits = score.paired(queries, rows[drawn.columns])
    terms = [estimator(logits, drawn)]
    if rest is not None:
        terms.append(linear_term(rest.log_mass, rest.mean, queries, score.scale))
    positive = score.paired(queries, items[request.positives][:, None])[:, 0]
    loss = softmax_loss(positive, torch.cat(terms, dim=1)).mean()
    by_query, by_item = torch.autograd.grad(loss, (queries, items))
    return Gradient(float(loss), by_query, by_item)
