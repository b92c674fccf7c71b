"""Clusters of a store as the queries of a request score them: the ground of the dynamic index."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.indexes.cluster_table import ClusterTable, HeldClusters, held_by
from negcache.indexes.clusters import ClusterIndex, KMeansClusters
from negcache.indexes.nested import NestedClusters, group, nest
from negcache.interfaces import Noise, Proposal, Store
from negcache.messages import Request
from negcache.ops.bounds import Exact, enumerate_chain, log_gamma_bound
from negcache.ops.cluster_draw import ClusterLaw, Partition, is_one_row
from negcache.ops.cluster_expected import log_expected
from negcache.ops.shards import Masses
from negcache.score import Score
from negcache.shapes import Bool, Float, Float64, Int, Tensor
from negcache.stores.reading import project_items, project_queries

HELD = 1 << 22
"""Numbers of coordinates, or scores, held at a time: a bound on memory."""


class Proposed(NamedTuple):
    """Items drawn from the proposal.

    Args:
        ids: of the items.
        scores: s~, the logit of each by its cached coordinates.
        log_ratios: t = s~ - V; -inf where a query may draw nothing, and the item is any.
    """

    ids: Int[Tensor, "B m s"]
    scores: Float64[Tensor, "B m s"]
    log_ratios: Float64[Tensor, "B m s"]


@dataclass(frozen=True)
class ScoredClusters:
    """The cluster proposal for the queries of one request, in slots; centres are scored once.

    Among several processes each has clusters of its own rows, and scored draws are made in turns.

    Args:
        score: of queries and coordinates.
        queries: as coordinates are scored against them.
        law: of each query over its clusters, without what is excluded; in places of the table.
        table: members and ranks of the clusters.
        store: the coordinates.
        has_radius: whether coordinates are scored as they are, so that distances say something.
    """

    score: Score
    queries: Float[Tensor, "b K"]
    law: ClusterLaw
    table: ClusterTable
    store: Store
    has_radius: bool

    def of(self, rows: Int[Tensor, "n"]) -> "ScoredClusters":
        """The same for some of the queries."""
        return replace(self, queries=self.queries[rows], law=self.law.of(rows))

    @cached_property
    def lipschitz(self) -> Float64[Tensor, "b"]:
        """How fast the logit of each query can change with distance in the coordinates."""
        return self.score.scale.detach().double() * self.queries.double().norm(dim=1)

    @cached_property
    def masses(self) -> Masses:
        """Of the clusters of every process."""
        return Masses(self.store.shard.mesh, self.law.log_norm)

    @property
    def log_norm(self) -> Float64[Tensor, "b"]:
        """log Zhat, of all processes; -inf where a query may draw nothing."""
        return self.masses.log_total

    @property
    def empty(self) -> Bool[Tensor, "b"]:
        """Which queries may draw nothing."""
        return self.log_norm == -torch.inf

    def check_radius(self) -> None:
        """Refuse coordinates that are not scored as they are: distances say nothing there.

        Raises:
            InputError: as it says.
        """
        if not self.has_radius:
            raise InputError(
                "coordinates that are scored as they are",
                "a re-encoder that changes them",
                "use DynamicIndexChain, which needs no radius",
            )

    @property
    def excluded(self) -> Exclusion:
        """The slots that may not stand for each query, of those in clusters."""
        return self.law.exclude.renumbered(self.table.slots(self.law.exclude.ids))

    def envelope(self) -> "ScoredClusters":
        """Proposed by clusters raised by their radius: no item scores above its cluster."""
        return replace(
            self, law=replace(self.law, partition=self.law.partition.envelope(self.lipschitz))
        )

    def log_prob(self, slots: Int[Tensor, "M"]) -> Float64[Tensor, "b M"]:
        """log Q of distinct rows of the store; -inf for what is excluded or in no cluster.

        Args:
            slots: -1, as often as need be, for an item without a row.
        """
        return self.law.log_chance(self.table.places_or_none(slots))

    def proposal(self, num_negatives: int) -> Proposal:
        """Independent draws from Q; no coordinates of items are looked at."""

        def draw(noise: Noise) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
            drawn = self.law.draw(noise(num_negatives, 2))
            log_q = self.law.partition.values.gather(1, drawn.clusters) - self.law.log_norm[:, None]
            nothing = self.law.empty[:, None]
            return self.table.slots(drawn.places), log_q.masked_fill(nothing, -torch.inf)

        def expected(slots: Int[Tensor, "M"], log_share: Tensor | None) -> Float64[Tensor, "M"]:
            return log_expected(self.law, self.table.places_or_none(slots), log_share)

        return Proposal(
            draw, self.log_prob, self.law.log_norm, self.store, self.store.coverage,
            log_expected=expected if is_one_row(self.law.partition.first) else None,
            leaves_out=True,
        )  # fmt: skip

    def draw_scored(self, noise: Float64[Tensor, "b m s 2"]) -> Proposed:
        """Draws and their scores; coordinates of the drawn items are gathered."""
        turns, mesh = self.masses.turns(noise.flatten(1, 2)), self.masses.mesh
        drawn = self.law.draw(turns.uniforms)
        slots = self.table.slots(drawn.places)
        scores = self._scores(slots)
        ratios = scores - self.law.partition.values.gather(1, drawn.clusters).double()
        ids, scores, ratios = (
            mesh.from_owners(each, turns.here) for each in (self.store.ids(slots), scores, ratios)
        )
        ratios = ratios.masked_fill(self.empty[:, None], -torch.inf)
        return Proposed(*(each.unflatten(1, noise.shape[1:3]) for each in (ids, scores, ratios)))

    def log_gamma_bound(self) -> Float64[Tensor, "b"]:
        """Upper bound of log max P / Q; infinite where coordinates are not scored as they are."""
        if not self.has_radius:
            return torch.full_like(self.lipschitz, torch.inf)
        return log_gamma_bound(self.law, self.lipschitz, self.masses.mesh)

    def enumerate(self) -> Exact:
        """gamma and acceptance from the scores of every item, a few queries at a time."""
        step = max(1, HELD // max(1, self.store.num_rows))
        parts = [self.of(some)._enumerate() for some in torch.arange(len(self.queries)).split(step)]
        return Exact(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _enumerate(self) -> Exact:
        ratios, log_q = [], []
        for first, block in self.store.chunks(max(1, HELD // self.queries.shape[1])):
            slots = torch.arange(first, first + len(block), device=self.queries.device)
            scores = self.score(self.queries, project_items(self.store, block)).double()
            chance = self.log_prob(slots)
            log_q.append(chance)
            values = chance + self.law.log_norm[:, None]
            ratios.append((scores - values).masked_fill(chance == -torch.inf, -torch.inf))
        return enumerate_chain(torch.cat(ratios, dim=1), torch.cat(log_q, dim=1))

    def _scores(self, slots: Int[Tensor, "b m"]) -> Float64[Tensor, "b m"]:
        """Each query against its own rows."""
        parts = []
        step = max(1, HELD // max(1, slots.shape[1] * self.queries.shape[1]))
        for queries, some in zip(self.queries.split(step), slots.split(step), strict=True):
            items = project_items(self.store, self.store.rows(some.flatten()))
            items = items.to(queries.dtype).view(*some.shape, -1)
            parts.append(self.score.paired(queries, items).detach().double())
        return torch.cat(parts)


class _Seen(NamedTuple):
    """Clusters as the queries score them, and whether their coordinates are scored as they are."""

    partition: Partition
    has_radius: bool


class ClusterScorer:
    """Keeps clusters of a store, and scores their centres for requests.

    Args:
        store: of coordinates, or of whole embeddings, which are then their own coordinates.
        index: keeps the clusters; it observes the store. None: ``KMeansClusters()``.
        expand: coarse clusters that each query looks into; 0: all clusters are scored for all.
    """

    def __init__(self, store: Store, index: ClusterIndex | None = None, expand: int = 0) -> None:
        if expand < 0:
            raise InputError("expand of 0 or more", f"{expand}", "0 scores all clusters")
        index = KMeansClusters() if index is None else index
        self.store, self.index, self.expand = store, index, expand
        self._nested: NestedClusters | None = None
        self._of: ClusterTable | None = None
        self._parents = torch.empty(0, dtype=torch.long)
        store.observe(index)

    @property
    def held(self) -> HeldClusters:
        """Bytes of the tables: of the index, and of its clusters of clusters."""
        nested = () if self._nested is None else (self._nested.coarse, self._nested.fine)
        return held_by([self.index.table, *nested])

    @torch.no_grad()
    def score(self, request: Request) -> ScoredClusters:
        """The clusters for the queries of a request; their centres are scored here, once."""
        self.index.update(self.store)
        table, queries = self.index.table, project_queries(self.store, request.queries)
        score = request.score
        if self.expand and table.num_clusters:
            nested = self._nest(table)
            seen = self._seen(nested.coarse, queries, score)
            centres = project_items(self.store, nested.fine.centres).to(queries.dtype)
            fine = nested.partition(queries, score, centres, seen.partition, self.expand)
            table, seen = nested.fine, seen._replace(partition=fine)
        else:
            seen = self._seen(table, queries, score)
        places = table.places_or_none(self.store.slots(request.exclude.ids))
        law = ClusterLaw(seen.partition, request.exclude.renumbered(places))
        return ScoredClusters(score, queries, law, table, self.store, seen.has_radius)

    def _seen(self, table: ClusterTable, queries: Float[Tensor, "B K"], score: Score) -> _Seen:
        """The clusters as all queries see them; where there are none, one that is empty."""
        if not table.num_clusters:
            none = torch.zeros(1, dtype=torch.long, device=queries.device)
            fields = (none, none, none.double())
            return _Seen(_shared_by_all(queries.new_zeros(len(queries), 1), fields), True)
        centres = project_items(self.store, table.centres)
        values = score(queries, centres.to(queries.dtype)).detach()
        fields = (table.offsets[:-1], table.sizes, table.radius)
        return _Seen(_shared_by_all(values, fields), _alike(centres, table.centres))

    def _nest(self, table: ClusterTable) -> NestedClusters:
        """The two-level table; coarse clusters stay while the centres do."""
        if self._nested is None or self._of is not table:
            same = self._of is not None and self._of.centres is table.centres
            self._parents = self._parents if same else group(table.centres)
            self._nested, self._of = nest(table, self._parents), table
        return self._nested


def _shared_by_all(
    values: Float[Tensor, "B G"], fields: tuple[Tensor, Tensor, Tensor]
) -> Partition:
    return Partition(values, *(field.expand(len(values), -1) for field in fields))


def _alike(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))
