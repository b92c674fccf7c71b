"""The partition function of a pool of items that all queries share, without a [B, M] tensor.

A few queries at a time: their scores, the few pairs that may not stand, and what they sum up to;
once more in the backward pass. Memory is O(B + M) beside the embeddings, and scores stay in a
processor's cache. The twin is ``logsumexp`` of a table of scores, which other scores take.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from negcache.exclusion import Exclusion
from negcache.shapes import Float, Tensor

HELD = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Scores held at a time."""


class LogSums(NamedTuple):
    """Of the terms of each query.

    Args:
        log_sum: log of the sum of their exponentials, with gradient; -inf: there are none.
        log_squares: log of the sum of their squares, detached.
    """

    log_sum: Float[Tensor, "B"]
    log_squares: Float[Tensor, "B"]


def log_sum(terms: Float[Tensor, "B k"]) -> Float[Tensor, "B"]:
    """logsumexp of each row; one without terms is -inf, and has no gradient."""
    empty = (terms.detach() == -torch.inf).all(dim=1)
    alive = terms.masked_fill(empty[:, None], 0.0)  # a logsumexp of nothing has no gradient
    return torch.logsumexp(alive, dim=1).masked_fill(empty, -torch.inf)


def log_sums(terms: Float[Tensor, "B k"]) -> LogSums:
    """From a table of log-terms. Those of -inf take no part, and have no gradient."""
    return LogSums(log_sum(terms), torch.logsumexp(2 * terms.detach(), dim=1))


def pool_sums(
    queries: Float[Tensor, "B D"],
    items: Float[Tensor, "M D"],
    weight: Float[Tensor, "*B M"],
    masked: Exclusion,
) -> LogSums:
    """Of ``<query, item> + weight`` over the items that may stand for each query.

    Args:
        queries: scaled.
        weight: of each item, or of each item for each query; -inf: it does not count.
        masked: the columns that do not stand for each query.
    """
    if not len(items):
        nothing = queries.new_full((len(queries),), -torch.inf)
        return LogSums(nothing, nothing)
    return LogSums(*_PoolSums.apply(queries, items, weight, masked))


class _PoolSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, items: Tensor, weight: Tensor, masked: Exclusion) -> Any:
        scores = _Scores(queries, items, weight, masked)
        log_sum, log_squares = (queries.new_empty(len(queries)) for _ in range(2))
        lowest = torch.finfo(queries.dtype).min
        for some in scores.parts():
            terms = scores.of(some)
            peak = terms.amax(dim=1, keepdim=True).clamp_min_(lowest)
            terms.sub_(peak).exp_()
            peak = peak.squeeze(1)
            log_sum[some] = terms.sum(dim=1).log_() + peak
            log_squares[some] = 2 * (torch.linalg.vector_norm(terms, dim=1).log_() + peak)
        ctx.save_for_backward(queries, items, weight, log_sum)
        ctx.masked = masked
        ctx.mark_non_differentiable(log_squares)
        return log_sum, log_squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # type: ignore[override]
        queries, items, weight, log_sum = ctx.saved_tensors
        grad = grads[0]
        scores = _Scores(queries, items, weight, ctx.masked)
        of_queries, of_items, *_ = ctx.needs_input_grad
        log_sum = log_sum.masked_fill(log_sum == -torch.inf, 0.0)
        query_grad = torch.empty_like(queries) if of_queries else None
        item_grad = torch.zeros_like(items) if of_items else None
        for some in scores.parts():
            chances = scores.of(some).sub_(log_sum[some, None]).exp_().mul_(grad[some, None])
            if query_grad is not None:
                torch.mm(chances, items, out=query_grad[some])
            if item_grad is not None:
                item_grad.addmm_(chances.T, queries[some])
        return query_grad, item_grad, None, None


class _Scores:
    """Scores of some queries at a time, in memory that is used again."""

    def __init__(self, queries: Tensor, items: Tensor, weight: Tensor, masked: Exclusion) -> None:
        self.queries, self.columns, self.weight = queries, items.T, weight
        self.masked, self.rows, self.ends = masked, masked.rows, masked.offsets.tolist()
        held = HELD.get(queries.device.type, HELD["cpu"])
        self.step = min(max(1, held // max(1, len(items))), max(1, len(queries)))
        self.memory = queries.new_empty(self.step, len(items))

    def parts(self) -> list[slice]:
        total = len(self.queries)
        return [slice(at, min(at + self.step, total)) for at in range(0, total, self.step)]

    def of(self, rows: slice) -> Float[Tensor, "b M"]:
        out, weight = self.memory[: rows.stop - rows.start], self.weight
        weight = weight if weight.ndim == 1 else weight[rows]
        torch.addmm(weight, self.queries[rows], self.columns, out=out)
        lo, hi = self.ends[rows.start], self.ends[rows.stop]
        if lo < hi:
            out[self.rows[lo:hi] - rows.start, self.masked.ids[lo:hi]] = -torch.inf
        return out
