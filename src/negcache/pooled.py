"""Draws of all queries, shared: how often an item was to be expected, and what it then stands for.

Nothing here holds a number for each query and item: scores are looked at a few items at a time, and
the few pairs that may not stand are kept as pairs.
"""

import torch

from negcache.interfaces import Proposal
from negcache.messages import Draw, Request
from negcache.shapes import Float, Int, Tensor

HELD = 1 << 19
"""Chances held at a time: what stays in a cache while it is summed up."""


def log_expected(
    proposal: Proposal,
    request: Request,
    ids: Int[Tensor, "M"],
    log_share: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, "M"]:
    """log of how often each of these distinct items is expected in one draw for every query.

    -inf for items that no row here is of.

    Args:
        proposal: of the rows of this process.
        log_share: log of the chance that it draws for each query; None: it is the only one.
    """
    slots = ids if proposal.store is None else proposal.store.slots(ids)
    dtype, found = request.queries.dtype, proposal.log_expected
    if found is not None:
        expected = found(slots, log_share).to(dtype)
    else:
        expected = _sum_up(proposal, request, ids, slots.clamp_min(0), log_share)
    return expected.masked_fill(slots < 0, -torch.inf)


def _sum_up(
    proposal: Proposal, request: Request, ids: Tensor, slots: Tensor, log_share: Tensor | None
) -> Float[Tensor, "M"]:
    """A few items at a time, from the chance of each for every query."""
    rows, columns = request.exclude.among(ids)
    order = columns.argsort()
    rows, columns = rows[order], columns[order]
    step, parts = max(1, HELD // max(1, len(request.queries))), []
    for first, some in zip(range(0, max(len(slots), 1), step), slots.split(step), strict=True):
        log_q = proposal.log_prob(some).to(request.queries.dtype, copy=True)
        ends = torch.tensor([first, first + len(some)], device=columns.device)
        lo, hi = torch.searchsorted(columns, ends).tolist()
        log_q[rows[lo:hi], columns[lo:hi] - first] = -torch.inf
        if log_share is not None:
            log_q += log_share[:, None].to(log_q)
        parts.append(torch.logsumexp(log_q, dim=0))
    return torch.cat(parts)


def share(
    ids: Int[Tensor, "M"],
    seen: Int[Tensor, "M"],
    log_expected: Float[Tensor, "M"] | Float[Tensor, "B M"],
    request: Request,
) -> Draw:
    """Let the draws of all queries stand for every query of the batch.

    The weight of item j is ``log(count seen) - log(count expected)``, -inf where it was not to be
    expected at all; where j may not stand for a query it does not. Unbiased for every Z_b-.

    Args:
        ids: ascending, distinct.
        seen: how often each was drawn, by any query.
        log_expected: log of how often each was to be expected; per query where they differ.
        request: what was asked.
    """
    weight = seen.to(log_expected.dtype).log() - log_expected
    weight = weight.masked_fill_(log_expected == -torch.inf, -torch.inf)
    return Draw(ids, None, weight.to(request.queries.dtype), masked=request.exclude.within(ids))


def alike(rows: Int[Tensor, "B 1"]) -> Int[Tensor, "*B w"]:
    """One number where it is the same for all queries, else a row each."""
    return rows[0] if len(rows) and bool((rows == rows[0]).all()) else rows
