"""The negative cache: draws from the softmax over cached embeddings, exactly."""

from dataclasses import replace

import torch

from negcache.errors import InputError
from negcache.interfaces import Noise, Proposal, Store
from negcache.messages import Request
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.two_stage import draw_rows, scan
from negcache.ops.views import BlockView, some_blocks
from negcache.score import Reshaped
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import scored_rows


class CachedSoftmax:
    """Independent draws for each query, ``q_b(y) = exp(s~_by) / Z~_b-`` over the cached rows.

    On a fresh cache one draw gives an unbiased softmax gradient, and any number the exact loss.
    A draw costs one pass of scores over the cache; nothing of size [B, N] is held.
    Source: Lindgren et al., NeurIPS 2021, with known positives excluded by id.

    Args:
        store: the rows drawn from; the training step keeps it up to date.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        power: draw from the softmax of ``power * s~``; below 1 flatter. Other than 1 it needs the
            ``log_q_corrected`` estimator, since the other takes the partition from the law.
        scored: share of the cache that a step scores, drawn anew each step in blocks of 128 rows;
            weights make up for it, and a step costs that much less.
    """

    has_density = True

    def __init__(
        self, store: Store, num_negatives: int, *, power: float = 1.0, scored: float = 1.0
    ) -> None:
        if not 1 <= num_negatives <= store.num_items:
            raise InputError(
                f"num_negatives between 1 and the {store.num_items} cached items",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        if not power > 0 or not 0 < scored <= 1:
            raise InputError(
                "power > 0 and scored above 0 and at most 1",
                f"power {power}, scored {scored}",
                "1 is the plain negative cache for both",
            )
        self.store, self.num_negatives = store, num_negatives
        self.power, self.scored = power, scored

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        rows = scored_rows(request, self.store)
        if self.power != 1:
            rows = rows.under(Reshaped(rows.score, lambda logits: logits * self.power))
        if self.scored == 1:
            return propose_softmax(self.store, rows, self.num_negatives, self.power == 1)
        view = some_blocks(self.store.shard, self.scored, generator, rows.valid.device)
        if not view.num_rows:  # all are with other processes
            nothing = propose_nothing(self.store, rows, self.num_negatives, self.power == 1)
            return replace(nothing, coverage=nothing.coverage * view.share)
        inside = propose_softmax(self.store, view.of(rows), self.num_negatives, self.power == 1)
        return in_view(inside, view)


def propose_softmax(
    store: Store, rows: ScoredRows, num_negatives: int, is_softmax: bool
) -> Proposal:
    """The softmax of the scores of these rows: one pass over them."""
    scanned = scan(rows, num_negatives)
    log_mass = scanned.log_mass

    def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        found = draw_rows(rows, scanned, noise(num_negatives, 2))
        nothing = (log_mass == -torch.inf)[:, None]
        return found.slots, (found.logits - log_mass[:, None]).masked_fill(nothing, -torch.inf)

    def log_prob(slots: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        log_q = rows.logits(slots) - log_mass[:, None]
        return log_q.masked_fill(~rows.valid[slots] | (log_mass == -torch.inf)[:, None], -torch.inf)

    return Proposal(draw, log_prob, log_mass, store, store.coverage, is_softmax, leaves_out=True)


def propose_nothing(
    store: Store, rows: ScoredRows, num_negatives: int, is_softmax: bool
) -> Proposal:
    """No row of this process may be drawn."""
    queries = rows.queries

    def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        log_q = queries.new_full(noise(num_negatives, 2).shape[:2], -torch.inf)
        return torch.zeros_like(log_q, dtype=torch.int64), log_q

    def log_prob(slots: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        return queries.new_full((len(queries), len(slots)), -torch.inf)

    log_mass = queries.new_full((len(queries),), -torch.inf)
    return Proposal(draw, log_prob, log_mass, store, store.coverage, is_softmax, leaves_out=True)


def in_view(inside: Proposal, view: BlockView) -> Proposal:
    """A proposal over some blocks of a store, in slots of the store."""

    def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        slots, log_q = inside.draw(noise)
        return view.to_base(slots), log_q

    def log_prob(slots: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        slots = view.from_base(slots)
        return inside.log_prob(slots.clamp_min(0)).masked_fill(slots < 0, -torch.inf)

    return replace(inside, draw=draw, log_prob=log_prob, coverage=inside.coverage * view.share)
