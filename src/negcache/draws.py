"""From proposals to draws: item ids, masks, coverage and weights are said here, and only here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.interfaces import DensitySampler, DrawSampler, Noise, Proposal, Sampler, Store
from negcache.messages import Draw, Request
from negcache.ops.shards import Masses, Turns
from negcache.pooled import log_expected
from negcache.shapes import Float, Int, Tensor


def draw(sampler: Sampler, request: Request, generator: torch.Generator) -> Draw:
    """What a sampler offers a request: its own draw, or each query's own from its proposal."""
    if not sampler.has_density:
        _check_offers(sampler, "draw")
        return cast(DrawSampler, sampler).draw(request, generator)
    return propose(sampler, request, generator).draw_for_each(generator)


def propose(sampler: Sampler, request: Request, generator: torch.Generator) -> "ItemProposal":
    """A sampler's proposal, in item ids: what combinators are made of."""
    _check_offers(sampler, "num_negatives", "propose")
    proposal = cast(DensitySampler, sampler).propose(request, generator)
    _check_mass(sampler, proposal)
    return ItemProposal(proposal, request, cast(DensitySampler, sampler).num_negatives)


@dataclass(frozen=True)
class ItemProposal:
    """A proposal that speaks of items, and knows what may not stand for a query.

    Where processes share the store, each draw is made by one of them, drawn by the mass of its
    rows: what a sampler proposes for the rows here is thereby a law over all.

    Args:
        proposal: in slots.
        request: what was asked.
        num_negatives: draws per query, m.
    """

    proposal: Proposal
    request: Request
    num_negatives: int

    @property
    def reaches_all(self) -> bool:
        """Whether every item may be drawn, each as itself."""
        store = self.proposal.store
        return self.proposal.coverage == 1 and (store is None or store.log_weights is None)

    def log_coverage(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"] | float:
        """log of how many rows of each item the law is to be expected to reach: 1 / its weight."""
        return math.log(self.proposal.coverage) - row_weights(self.proposal.store, ids)

    @cached_property
    def masses(self) -> Masses | None:
        """Of the rows of every process; None: the law is not dealt out."""
        store, log_mass = self.proposal.store, self.proposal.log_mass
        if store is None or log_mass is None or store.shard.mesh.size == 1:
            return None
        return Masses(store.shard.mesh, log_mass)

    def draw(self, noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        """m items for each query, and log q of each; -inf: it may not stand for the query."""
        if self.masses is None:
            slots, log_q = self.proposal.draw(noise)
            ids = self._ids(slots)
        else:
            ids, log_q = self._draw_in_turns(noise, self.masses)
        if self.proposal.leaves_out:
            return ids, log_q
        return ids, log_q.masked_fill(self.request.exclude.hits(ids), -torch.inf)

    def draw_some(
        self, count: int | None, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n"], float]:
        """A random choice of so many of all queries' draws, masked hits among it; None: all.

        Returns:
            Those that may stand for their query, and log of the draws per query that they come to.
        """
        ids, log_q = (each.flatten() for each in self.draw(self.request.noise(generator)))
        total = len(ids)
        count = min(total if count is None else count, total)
        if count < total:
            chosen = torch.randperm(total, generator=generator)[:count].to(ids.device)
            ids, log_q = ids[chosen], log_q[chosen]
        return ids[log_q > -torch.inf], math.log(self.num_negatives * count / max(total, 1))

    def _draw_in_turns(
        self, noise: Noise, masses: Masses
    ) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
        """Each draw by the process whose turn it is, for all to know."""
        turns: list[Turns] = []

        def uniforms(count: int, width: int) -> Tensor:
            (widths,) = masses.mesh.each(width)  # trees may differ in height
            turn = int(self.proposal.spends_last_first)
            turns.append(masses.turns(noise(count, max(widths)).roll(turn, -1)))
            return turns[-1].uniforms[..., :width].roll(-turn, -1)

        slots, log_q = self.proposal.draw(uniforms)
        (turn,) = turns
        log_q = log_q + masses.log_share[:, None].to(log_q.dtype)
        ids = masses.mesh.from_owners(self._ids(slots), turn.here)
        return ids, masses.mesh.from_owners(log_q, turn.here)

    def log_prob(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        """log q_b(y) of these items; -inf where b may not draw y.

        Sums to 1 over the items that the law reaches, less the chance of hits that are masked.
        """
        log_q = self._log_prob_here(ids)
        return log_q if self.masses is None else self.masses.mesh.largest(log_q)

    def log_expected(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M"]:
        """log of how often each item is expected in one draw for every query."""
        if self.masses is None:
            return log_expected(self.proposal, self.request, ids)
        found = log_expected(self.proposal, self.request, ids, self.masses.log_share)
        return self.masses.mesh.largest(found)

    def _log_prob_here(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        """As ``log_prob``; -inf too where another process holds the row."""
        store, exclude = self.proposal.store, self.request.exclude
        slots = ids if store is None else store.slots(ids)
        log_q = self.proposal.log_prob(slots.clamp_min(0))
        log_q = log_q.to(self.request.queries.dtype, copy=True)
        log_q[exclude.among(ids)] = -torch.inf
        if store is not None:
            log_q[:, slots < 0] = -torch.inf
        return log_q if self.masses is None else log_q + self.masses.log_share[:, None].to(log_q)

    def draw_for_each(self, generator: torch.Generator) -> Draw:
        """Each query's draws stand for it alone: ``w = -log(m q coverage)``.

        Where the law is the softmax itself, the partition is that of the rows, and each draw has
        the same share of it.
        """
        ids, log_q = self.draw(self.request.noise(generator))
        log_share = torch.full_like(log_q, -math.log(self.num_negatives))
        weight = (log_share - log_q - self.log_coverage(ids)).masked_fill(
            log_q == -torch.inf, -torch.inf
        )
        dtype, log_z = self.request.queries.dtype, None
        if self.proposal.is_softmax and self.proposal.log_mass is not None:
            log_mass = self.proposal.log_mass if self.masses is None else self.masses.log_total
            log_z = (log_mass - math.log(self.proposal.coverage)).to(dtype)
        own = (None, None) if log_z is None else (log_z, log_share.to(dtype))
        return use_columns(ids, weight.to(dtype), *own)

    def _ids(self, slots: Int[Tensor, "B m"]) -> Int[Tensor, "B m"]:
        return slots if self.proposal.store is None else self.proposal.store.ids(slots)


def from_weights(
    store: Store,
    ids: Int[Tensor, "B m"],
    log_weight: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"] | None = None,
    log_share: Float[Tensor, "B m"] | None = None,
    *,
    dtype: torch.dtype,
    metrics: Mapping[str, Tensor] | None = None,
) -> Draw:
    """The draw of a sampler without density: items of a store, and what each stands for there.

    Args:
        log_weight: log of how many rows of the store each draw stands for; -inf: it is masked.
        log_z: estimate of log sum exp(s~) over the rows that may stand for the query.
        log_share: of each draw in it.
        dtype: of the weights.
        metrics: of each query or draw, whose means go to the report.
    """
    stands = -math.log(store.coverage)
    own = () if log_z is None or log_share is None else ((log_z + stands).to(dtype), log_share)
    return use_columns(
        ids,
        (log_weight + stands + row_weights(store, ids)).to(dtype),
        *(each.to(dtype) for each in own),
        metrics=means(metrics or {}),
    )


def from_shares(
    store: Store,
    ids: Int[Tensor, "B m"],
    scores: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"],
    log_share: Float[Tensor, "B m"],
    *,
    dtype: torch.dtype,
    metrics: Mapping[str, Tensor] | None = None,
) -> Draw:
    """Draws with an estimate of the partition beside them; for either estimator.

    Args:
        scores: s~ of each draw, with the weight of its row.
        log_z: estimate of log sum exp(s~) over the rows that may stand for the query.
        log_share: of each draw in it; -inf where it may not stand for the query.
    """
    masked = log_share == -torch.inf
    weight = (log_z[:, None] + log_share - scores).masked_fill(masked, -torch.inf)
    return from_weights(store, ids, weight, log_z, log_share, dtype=dtype, metrics=metrics)


def plain(
    ids: Int[Tensor, "B m"],
    alive: Tensor,
    *,
    dtype: torch.dtype,
    metrics: Mapping[str, Tensor] | None = None,
) -> Draw:
    """Draws that stand for themselves alone, each with weight 0; -inf where not ``alive``."""
    weight = torch.zeros(alive.shape, dtype=dtype, device=alive.device)
    return use_columns(ids, weight.masked_fill(~alive, -torch.inf), metrics=means(metrics or {}))


def use_columns(
    drawn: Int[Tensor, "B m"],
    log_weight: Float[Tensor, "B m"],
    log_z: Float[Tensor, "B"] | None = None,
    log_share: Float[Tensor, "B m"] | None = None,
    *,
    metrics: dict[str, float] | None = None,
) -> Draw:
    """A draw from each query's own items, each listed once; -1, of an empty row, is left out."""
    ids, columns = torch.unique(drawn, return_inverse=True)
    if len(ids) and int(ids[0]) < 0:
        log_weight = log_weight.masked_fill(drawn < 0, -torch.inf)
        ids, columns = ids[1:], (columns - 1).clamp_min(0)
        if not len(ids):
            columns, log_weight = columns[:, :0], log_weight[:, :0]
            log_share = None if log_share is None else log_share[:, :0]
    return Draw(ids, columns, log_weight, log_z, log_share, metrics=metrics or {})


def given(negatives: Int[Tensor, "B h"], exclude: Exclusion, dtype: torch.dtype) -> Draw:
    """The user's own negatives, each with weight 0: they stand for themselves alone.

    Padding (-1), excluded items and repeats within a row get weight -inf, and cost no encoding.
    """
    ordered = negatives.sort(dim=1).values
    repeat = torch.zeros_like(ordered, dtype=torch.bool)
    repeat[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    masked = repeat | (ordered < 0) | exclude.hits(ordered.clamp_min(0))
    ids = torch.unique(ordered[~masked])
    width = negatives.shape[1] if len(ids) else 0
    columns = torch.searchsorted(ids, ordered.contiguous()).clamp_(max=max(len(ids) - 1, 0))
    weight = torch.zeros(ordered.shape, dtype=dtype, device=ids.device)
    return Draw(ids, columns[:, :width], weight.masked_fill(masked, -torch.inf)[:, :width])


def row_weights(store: Store | None, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"] | float:
    """log of how many items the row of each item stands for, beside 1 / coverage; 0 without one."""
    weights = None if store is None else store.log_weights
    if store is None or weights is None:
        return 0.0
    slots = store.slots(ids)
    found = weights[slots.clamp_min(0)].where(slots >= 0, 0.0)
    return store.shard.mesh.from_owners(found, slots >= 0)


def means(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of metrics; what is infinite or of nothing is left out."""
    found = {name: float(each.double().mean()) for name, each in metrics.items() if each.numel()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _check_mass(sampler: Sampler, proposal: Proposal) -> None:
    """A law over the rows of several processes has a mass on those of each. Raises InputError."""
    store = proposal.store
    if store is not None and store.shard.mesh.size > 1 and proposal.log_mass is None:
        raise InputError(
            "a law with a mass on the rows of each process",
            f"{type(sampler).__name__} without, and {store.shard.mesh.size} processes",
            "give its Proposal a log_mass: see CONTRIBUTING, 'Add a sampler'",
        )


def _check_offers(sampler: Sampler, *wanted: str) -> None:
    """What ``has_density`` promises. Raises InputError."""
    if not all(hasattr(sampler, name) for name in ("store", *wanted)):
        raise InputError(
            f"store, {', '.join(wanted)} of a sampler with has_density {sampler.has_density}",
            f"{type(sampler).__name__}, which lacks some",
            "see CONTRIBUTING, 'Add a sampler'",
        )
