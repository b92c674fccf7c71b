"""Exact draws over the dynamic index: flat rejection."""

from typing import NamedTuple

import torch

from negcache.draws import from_shares
from negcache.errors import InputError
from negcache.indexes.clusters import ClusterIndex
from negcache.indexes.scored_clusters import ClusterScorer, ScoredClusters
from negcache.interfaces import Store
from negcache.messages import Draw, Request
from negcache.ops.metropolis import log_partition
from negcache.ops.rejection import first_kept, log_keep, log_shares, spacing, tolerance
from negcache.shapes import Bool, Float64, Int, Tensor
from negcache.stores.reading import refuse_weights


class _Found(NamedTuple):
    """Draws, those of the proposal where nothing was kept; t of all proposals of round one.

    A query that may draw nothing has found it.
    """

    ids: Int[Tensor, "B m"]
    scores: Float64[Tensor, "B m"]
    log_ratios: Float64[Tensor, "B m"]
    kept: Bool[Tensor, "B m"]
    first_ratios: Float64[Tensor, "B n"]


class DynamicIndexRejection:
    """Draws from the softmax of cached scores itself, by clusters raised by their radius.

    Proposals are refused until one is kept: ``exp(2 scale r)`` of them or fewer, so that clusters
    must be small, or the scale low. A draw that has none after ``rounds`` is made by the proposal
    instead, and its share of the partition is its own importance: told in the report as
    ``not_found``, and no longer exact. Take the ``cached_partition`` estimator.
    Source: Monath et al., AISTATS 2023.

    Args:
        store: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query, m.
        tries: proposals made at a time for each draw.
        rounds: how often, at most.
        index: keeps the clusters; None: ``KMeansClusters()``.
        expand: as in ``DynamicIndex``.
    """

    has_density = False

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        *,
        tries: int = 8,
        rounds: int = 64,
        index: ClusterIndex | None = None,
        expand: int = 0,
    ) -> None:
        if min(num_negatives, tries, rounds) < 1:
            raise InputError(
                "num_negatives, tries and rounds of 1 or more",
                f"{num_negatives}, {tries} and {rounds}",
                "each round makes some tries for each draw",
            )
        refuse_weights(store, "rejection from clusters")
        self.store, self.num_negatives = store, num_negatives
        self.tries, self.rounds = tries, rounds
        self.clusters = ClusterScorer(store, index, expand)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        """As ``Sampler.draw``.

        Raises:
            InputError: the store does not score coordinates as they are, so radii say nothing.
        """
        scored = self.clusters.score(request)
        scored.check_radius()
        scored = scored.envelope()
        # One number from the generator, however many rounds this process makes.
        seed = int(torch.randint(1 << 62, (), generator=generator))
        tolerated = _tolerated(scored)
        found = self._search(scored, request, torch.Generator().manual_seed(seed), tolerated)
        log_z = log_partition(found.first_ratios, scored.log_norm)
        shares = log_shares(found.kept, found.log_ratios, scored.log_norm, log_z)
        acceptance = log_keep(found.first_ratios, tolerated).exp()
        return from_shares(
            self.store, found.ids, found.scores, log_z, shares,
            dtype=request.queries.dtype,
            metrics={"acceptance": acceptance, "not_found": ~found.kept},
        )  # fmt: skip

    def _search(
        self, scored: ScoredClusters, request: Request, noise: torch.Generator, tolerated: float
    ) -> _Found:
        """Rounds of proposals, for the queries that still want one."""
        uniforms = request.uniforms(noise, self.num_negatives, 1, 2)
        ids, scores, ratios = (each.squeeze(2) for each in scored.draw_scored(uniforms))
        found = scored.empty[:, None].expand_as(ids).clone()
        first = ratios.new_full((len(ratios), self.num_negatives * self.tries), -torch.inf)
        for turn in range(self.rounds):
            wanting = (~found).any(dim=1).nonzero().squeeze(1)
            if not len(wanting):
                break
            uniforms = request.uniforms(noise, self.num_negatives, self.tries, 3)[wanting]
            some = scored if len(wanting) == len(ids) else scored.of(wanting)
            proposed = some.draw_scored(uniforms[..., :2])
            if turn == 0:
                first[wanting] = proposed.log_ratios.flatten(1)
            kept = first_kept(proposed.log_ratios, uniforms[..., 2], tolerated)
            news = kept.found & ~found[wanting]
            for mine, theirs in zip((ids, scores, ratios), proposed, strict=True):
                theirs = theirs.gather(2, kept.ends[..., None]).squeeze(2)
                mine[wanting] = theirs.where(news, mine[wanting])
            found[wanting] |= news
        return _Found(ids, scores, ratios, found, first)


def _tolerated(scored: ScoredClusters) -> float:
    """By the coarser of the dtypes of scores and of radii; the largest of all processes."""
    scores = spacing(scored.queries.dtype, scored.queries.device)
    here = tolerance(
        scored.law.partition.values, max(scores, torch.finfo(scored.table.radius.dtype).eps)
    )
    mesh = scored.store.shard.mesh
    return float(mesh.largest(torch.tensor(here, dtype=torch.float64, device=mesh.device)))
