"""Draws without replacement from cached rows: sum-and-sample, and head + tail."""

import math

import torch

from negcache.functional.two_stage import (
    cell_log_masses,
    draw_from_cells,
    masked_blocks,
    mass_of_cells_,
    take_away,
)
from negcache.protocols import Request, Rows
from negcache.shapes import Float, Int, Tensor


def sum_and_sample_shares(
    log_prob: Float[Tensor, "B m"], log_left: Float[Tensor, "B"]
) -> Float[Tensor, "B m"]:
    """log-shares of m draws without replacement, in the order they were drawn.

    ``omega_i = p(j_i)`` for all but the last, which takes what is left: unbiased for any function
    summed under p, since the last is drawn from what is left.

    Args:
        log_prob: log p of each draw under the law before anything was taken away.
        log_left: log p of all that was left when the last was drawn, summed as such: one less the
            others' chances is nothing but rounding where these hold nearly all of the mass.
    """
    return torch.cat([log_prob[:, :-1], log_left[:, None]], dim=1)


@torch.no_grad()
def draw_distinct(
    request: Request, rows: Rows, noise: Float[Tensor, "B m 2"]
) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """m distinct slots for each query, drawn one after the other, and their scores.

    Returns slots, scores (-inf once a query has no row left), log Z~ of all rows, and log Z~ of
    those that were left for the last draw.
    """
    masses = cell_log_masses(request, rows)
    log_left = log_z = torch.logsumexp(masses, dim=1)
    slots, logits = [], []
    for turn in range(noise.shape[1]):
        if turn:
            request, masses = take_away(request, rows, masses, slots[-1])
            log_left = torch.logsumexp(masses, dim=1)
        found = draw_from_cells(request, rows, masses, noise[:, turn : turn + 1])
        slots.append(found.slots)
        logits.append(found.logits.masked_fill((log_left == -torch.inf)[:, None], -torch.inf))
    return torch.cat(slots, dim=1), torch.cat(logits, dim=1), log_z, log_left


@torch.no_grad()
def masses_and_head(
    request: Request, rows: Rows, head: int
) -> tuple[Float[Tensor, "B cells"], Int[Tensor, "B h"], Float[Tensor, "B h"]]:
    """Cell log-masses, and the slots and scores of each query's ``head`` best rows."""
    masses = []
    scores = request.queries.new_full((len(request.queries), 0), -torch.inf)
    slots = torch.zeros_like(scores, dtype=torch.long)
    for first, logits in masked_blocks(request, rows):
        best = logits.topk(min(head, logits.shape[1]), dim=1)
        scores = torch.cat([scores, best.values], dim=1)
        slots = torch.cat([slots, best.indices + first], dim=1)
        scores, place = scores.topk(min(head, scores.shape[1]), dim=1)
        slots = slots.gather(1, place)
        masses.append(mass_of_cells_(logits))
    return torch.cat(masses, dim=1), slots, scores


@torch.no_grad()
def draw_head_and_tail(
    request: Request, rows: Rows, head: int, noise: Float[Tensor, "B m 2"]
) -> tuple[Int[Tensor, "B hm"], Float[Tensor, "B hm"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """The ``head`` best rows, then m independent draws from the others.

    Returns slots, scores (-inf: no such row), log Z~ of all rows and log Z~ of the tail.
    """
    masses, slots, scores = masses_and_head(request, rows, head)
    log_z = torch.logsumexp(masses, dim=1)
    request, masses = take_away(request, rows, masses, slots)
    log_tail = torch.logsumexp(masses, dim=1)
    if noise.shape[1]:
        found = draw_from_cells(request, rows, masses, noise)
        drawn = found.logits.masked_fill((log_tail == -torch.inf)[:, None], -torch.inf)
        slots, scores = torch.cat([slots, found.slots], 1), torch.cat([scores, drawn], 1)
    return slots, scores, log_z, log_tail


def head_and_tail_shares(
    logits: Float[Tensor, "B hm"],
    log_z: Float[Tensor, "B"],
    log_tail: Float[Tensor, "B"],
    head: int,
) -> Float[Tensor, "B hm"]:
    """log-shares: ``p~_j`` for the head; the tail's draws share its mass equally."""
    shares = logits - log_z[:, None]
    draws = logits.shape[1] - head
    if draws:
        alive = logits[:, head:] > -torch.inf
        equal = (log_tail - log_z)[:, None] - math.log(draws)
        shares = torch.cat([shares[:, :head], torch.where(alive, equal, -torch.inf)], dim=1)
    return shares
