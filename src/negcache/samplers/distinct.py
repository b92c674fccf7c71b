"""Draws without replacement from the softmax over cached rows: one by one, or head and tail."""

import math
from dataclasses import replace

import torch

from negcache.draws import from_shares
from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.shards import Masses, best_of_all
from negcache.ops.two_stage import Scan, masked_chunks, mass_of_blocks_, scan, take_away
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import draw_items, scored_rows


class CachedDistinct:
    """m different items for each query, drawn one after the other from the cached softmax.

    Sum-and-sample: all but the last count with their own probability, the last with what is left.
    Unbiased for Z- at any staleness (log_q_corrected), and for the gradient on a fresh cache
    (cached_partition); never two draws on one item. See Kool et al. 2019 (arXiv:1903.06059) for
    draws without replacement. A step costs m rounds of stage two: for tens of draws, not thousands.

    Args:
        store: the rows drawn from.
        num_negatives: different items per query, m.
    """

    has_density = False

    def __init__(self, store: Store, num_negatives: int) -> None:
        if not 1 <= num_negatives <= store.shard.total:
            raise InputError(
                f"num_negatives between 1 and the {store.shard.total} cached rows",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        self.store, self.num_negatives = store, num_negatives

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.num_negatives, 2)
        rows = scored_rows(request, self.store)
        scanned, drawn = scan(rows), []
        for turn in range(self.num_negatives):
            drawn.append(draw_items(self.store, rows, scanned, noise[:, turn : turn + 1]))
            if turn + 1 < self.num_negatives:
                rows, scanned = take_away(rows, scanned, self.store.slots(drawn[-1].ids))
        ids, logits = (
            torch.cat([getattr(d, part) for d in drawn], 1) for part in ("ids", "logits")
        )
        log_z, log_left = drawn[0].log_mass, drawn[-1].log_mass
        log_share = sum_and_sample_masses(logits, log_left) - log_z[:, None]
        log_share = log_share.masked_fill(logits == -torch.inf, -torch.inf)
        return from_shares(self.store, ids, logits, log_z, log_share, dtype=request.queries.dtype)


class HeadTail:
    """Each query's ``head`` best cached items, and ``tail`` independent draws from the rest.

    The head counts with weight 0, the tail with ``-log(m q)`` over what is left: unbiased for Z-
    at any staleness. Best where the cached softmax is peaked. With ``tail = 0`` these are hard
    negatives, top-k of a cache, as ANCE mines them from an index: never unbiased.

    Args:
        store: the rows drawn from.
        head: best items per query.
        tail: draws per query from the others.
    """

    has_density = False

    def __init__(self, store: Store, head: int, tail: int) -> None:
        if head < 1 or tail < 0 or head + tail > store.shard.total:
            raise InputError(
                f"head of 1 or more, tail of 0 or more, at most {store.shard.total} together",
                f"head {head}, tail {tail}",
                "use CachedSoftmax for no head, FullSoftmax for all",
            )
        self.store, self.head, self.tail = store, head, tail

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        noise = request.uniforms(generator, self.tail, 2)
        rows = scored_rows(request, self.store)
        scanned, slots, logits = scan_with_head(rows, self.head)
        mesh = self.store.shard.mesh
        log_z = Masses(mesh, scanned.log_mass).log_total
        ids, logits = best_of_all(mesh, self.store.ids(slots), logits, self.head)
        rows, scanned = take_away(rows, scanned, self.store.slots(ids))
        tail = draw_items(self.store, rows, scanned, noise)
        ids, logits = torch.cat([ids, tail.ids], 1), torch.cat([logits, tail.logits], 1)
        log_share = head_and_tail_masses(logits, tail.log_mass, self.head) - log_z[:, None]
        log_share = log_share.masked_fill(logits == -torch.inf, -torch.inf)
        drawn = from_shares(self.store, ids, logits, log_z, log_share, dtype=request.queries.dtype)
        return drawn if self.tail else replace(drawn, log_z=None, log_share=None)


def sum_and_sample_masses(
    logits: Float[Tensor, "B m"], log_left: Float[Tensor, "B"]
) -> Float[Tensor, "B m"]:
    """log of the mass that each of m draws without replacement stands for, in their order.

    All but the last stand for themselves, the last for what is left: unbiased for any function
    summed under the softmax, since the last is drawn from what is left.

    Args:
        log_left: log of the mass that the last was drawn from, summed as such: all less the others
            is nothing but rounding where these hold nearly all of it.
    """
    return torch.cat([logits[:, :-1], log_left[:, None]], dim=1)


def head_and_tail_masses(
    logits: Float[Tensor, "B hm"], log_tail: Float[Tensor, "B"], head: int
) -> Float[Tensor, "B hm"]:
    """The head stands for itself; the tail's draws share its mass equally.

    Args:
        log_tail: log of the tail's mass.
        head: columns of the head.
    """
    draws = logits.shape[1] - head
    if not draws:
        return logits
    equal = (log_tail[:, None] - math.log(draws)).expand(-1, draws)
    return torch.cat([logits[:, :head], equal], dim=1)


@torch.no_grad()
def scan_with_head(
    rows: ScoredRows, head: int
) -> tuple[Scan, Int[Tensor, "B h"], Float[Tensor, "B h"]]:
    """One pass over the rows that also finds slots and scores of each query's ``head`` best."""
    masses = []
    scores = rows.queries.new_full((len(rows.queries), 0), -torch.inf)
    slots = torch.zeros_like(scores, dtype=torch.long)
    for first, logits in masked_chunks(rows):
        best = logits.topk(min(head, logits.shape[1]), dim=1)
        scores = torch.cat([scores, best.values], dim=1)
        slots = torch.cat([slots, best.indices + first], dim=1)
        scores, place = scores.topk(min(head, scores.shape[1]), dim=1)
        slots = slots.gather(1, place)
        masses.append(mass_of_blocks_(logits))
    return Scan(torch.cat(masses, dim=1), None), slots, scores
