"""Samplers made of samplers, written once over proposals: share, mix, choose again."""

import math
from dataclasses import replace
from typing import cast

import torch

from negcache.draws import ItemProposal, draw, propose
from negcache.errors import InputError
from negcache.interfaces import DensitySampler, Noise, Proposal, Sampler, Store
from negcache.messages import Draw, Request
from negcache.ops.pool_draw import draw_from_pool
from negcache.pooled import alike, share
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import project_items, project_queries
from negcache.validation import check_popularity


class SharedDraws:
    """Pools a sampler's per-query draws: B x m encoded items stand for every query.

    At a given number of encoded items this is worth more than any other choice we measured. The
    pooled weights, ``log c_j - log sum_b m q_b(j)``, keep every query's partition unbiased; use
    the ``log_q_corrected`` estimator.

    With ``log_popularity`` the batch's other positives, which are encoded anyway, join the pool:
    ``log c_j - log(sum_b m q_b(j) + (B - 1) pi_j)``, unbiased to O(1/B) if batches are drawn from
    pi: a query's law leaves its own positive out, so it is not quite independent of the batch.

    Args:
        sampler: any sampler of per-query draws whose density is known.
        num_encoded: keep a random choice of so many of the B x m draws, and weigh them for it:
            fewer negatives than queries; None: all.
        log_popularity: log pi of every item [N], its share of training positives, -inf for none;
            None: the batch's positives stand for their own queries alone.
    """

    has_density = False

    def __init__(
        self,
        sampler: Sampler,
        *,
        num_encoded: int | None = None,
        log_popularity: Float[Tensor, "N"] | None = None,
    ) -> None:
        if not sampler.has_density:
            raise InputError(
                "a sampler with has_density", type(sampler).__name__, "use it without SharedDraws"
            )
        if num_encoded is not None and num_encoded < 1:
            raise InputError("num_encoded of 1 or more", f"{num_encoded}", "or None, for all")
        if log_popularity is not None:
            check_popularity(log_popularity)
        self.sampler, self.store = sampler, sampler.store
        self.num_encoded, self.log_popularity = num_encoded, log_popularity

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        if self.log_popularity is not None:
            request.over(len(self.log_popularity))
        proposal = propose(self.sampler, request, generator)
        drawn, log_times = proposal.draw_some(self.num_encoded, generator)
        if self.log_popularity is None:
            ids, seen = torch.unique(drawn, return_counts=True)
            log_expected = proposal.log_expected(ids) + log_times + proposal.log_coverage(ids)
        else:
            ids, seen = torch.unique(torch.cat([drawn, request.targets]), return_counts=True)
            log_expected = self._joined(proposal, ids, log_times)
        return share(ids, seen, log_expected, request)

    def _joined(
        self, proposal: ItemProposal, ids: Int[Tensor, "M"], log_times: float
    ) -> Float[Tensor, "*B M"]:
        """log of how often each item is expected among the draws and the others' positives."""
        assert self.log_popularity is not None
        by_draws = proposal.log_expected(ids) + log_times
        log_pi = self.log_popularity.to(by_draws)[ids]
        # what the batch reaches needs no help of it
        covered = by_draws + proposal.log_coverage(ids)
        by_draws = by_draws.where(log_pi > -torch.inf, covered)
        by_batch = alike(proposal.request.others).to(by_draws).log() + log_pi
        return torch.logaddexp(by_draws, by_batch)


class Mixture:
    """Pools the draws of several samplers, ``w_y = -log sum_d m_d q_d(y)``, every occurrence kept.

    Unbiased where one of them is, and never worse weighted than the best of them: an item that any
    of them is likely to draw gets a small weight. With ``Uniform`` among them no weight exceeds
    log(N / m_uniform), however stale the store: a bound on the damage of a bad proposal.

    Args:
        samplers: any with a density; at least one must reach every item; at most one store.
    """

    has_density = True

    def __init__(self, *samplers: Sampler) -> None:
        wrong = [type(s).__name__ for s in samplers if not s.has_density]
        if wrong or len(samplers) < 2:
            raise InputError(
                "two or more samplers with has_density",
                ", ".join(wrong) or f"{len(samplers)} sampler",
                "mix the samplers themselves, then wrap the mixture in SharedDraws",
            )
        stores = {id(s.store): s.store for s in samplers if s.store is not None}
        if len(stores) > 1:
            raise InputError(
                "samplers over one store", f"{len(stores)} stores", "give them the same store"
            )
        self.samplers = [cast(DensitySampler, s) for s in samplers]
        self.store: Store | None = next(iter(stores.values()), None)
        self.num_negatives = sum(s.num_negatives for s in self.samplers)

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        """In item ids: the parts may number their rows differently.

        Given any part, one that reaches every item makes up for the coverage of the others.
        """
        parts = [propose(sampler, request, generator) for sampler in self.samplers]
        if not any(part.reaches_all for part in parts):
            raise InputError(
                "a sampler that reaches every item",
                "none",
                "add Uniform, or use one of them alone: it corrects for its own coverage",
            )

        def log_prob(ids: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
            terms = [part.log_prob(ids) + math.log(part.num_negatives) for part in parts]
            return torch.logsumexp(torch.stack(terms), dim=0) - math.log(self.num_negatives)

        def draw_parts(noise: Noise) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
            drawn, log_qs = zip(*(part.draw(noise) for part in parts), strict=True)
            ids, columns = torch.unique(torch.cat(drawn, dim=1), return_inverse=True)
            log_q = log_prob(ids).gather(1, columns)
            return ids[columns], log_q.masked_fill(torch.cat(log_qs, 1) == -torch.inf, -torch.inf)

        return Proposal(draw_parts, log_prob)


class Resampled:
    """Shared draws from the softmax of stored scores over a pool of proposals.

    The proposals of all queries, shared, are a pool with weights that make every query's partition
    unbiased; each query draws from ``softmax(s~ + log weight)`` over the pool, and these draws are
    shared once more. Only what is drawn last is encoded, so the pool may be many times as large:
    its stored rows are all that is read. Weights multiply, so the partition is unbiased at any
    staleness; take the ``log_q_corrected`` estimator. Source: sampling-importance resampling (Rubin
    1987) with the pooled weights of ``SharedDraws``.

    Args:
        sampler: proposes, such as ``DynamicIndex``; its density must be known. Its
            ``num_negatives`` is the pool's size per query.
        store: whose scores choose; None: the sampler's own.
        num_negatives: draws per query from the pool.
    """

    has_density = False

    def __init__(
        self, sampler: Sampler, num_negatives: int = 1, *, store: Store | None = None
    ) -> None:
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        if None not in (store, sampler.store) and store is not sampler.store:
            raise InputError(
                "proposals and choice over one store", "two stores", "leave store= out"
            )
        store = sampler.store if store is None else store
        if store is None:
            raise InputError(
                "a store to choose by", "a sampler without one", "pass store=, such as a DenseCache"
            )
        self.pool, self.store, self.num_negatives = SharedDraws(sampler), store, num_negatives

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        pool = draw(self.pool, request, generator)
        if not len(pool.ids):  # nobody may draw anything
            return pool
        assert pool.masked is not None
        over = replace(request, exclude=pool.masked)  # the pool's columns are its items
        queries, rows = self._scored_alike(request.queries, pool.ids)
        noise = over.noise(generator)(self.num_negatives, 2)
        weight = pool.weight.to(queries.dtype)
        found = draw_from_pool(queries, rows, weight, request.score, pool.masked, noise)
        places, seen = torch.unique(found.places[found.alive], return_counts=True)
        expected = found.expected[places].log() + math.log(self.num_negatives)
        chosen = share(places, seen, expected.to(request.queries.dtype), over)
        weight = pool.weight[places] + chosen.weight
        metrics = {**pool.metrics, "pool": float(len(pool.ids))}
        return replace(chosen, ids=pool.ids[places], weight=weight, metrics=metrics)

    def _scored_alike(
        self, queries: Float[Tensor, "B D"], ids: Int[Tensor, "M"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "M K"]]:
        """Queries, and stored rows of the pool, of all processes; zeros: it is not stored."""
        slots = self.store.slots(ids)
        held = (slots >= 0) & self.store.valid[slots.clamp_min(0)]
        queries = project_queries(self.store, queries)
        rows = project_items(self.store, self.store.rows(slots.clamp_min(0))).to(queries.dtype)
        if not bool(held.all()):
            rows = rows.where(held[:, None], 0.0)
        return queries, self.store.shard.mesh.from_owners(rows, held[:, None])
