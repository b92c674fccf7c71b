"""The cluster proposal over a cache: what every sampler of the dynamic index asks."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.bounds import Exact, enumerate_chain, log_gamma_bound
from negcache.functional.cluster_draw import CellLaw, Cut
from negcache.indexes.cells import CellIndex, CellTable, HeldCells, KMeansCells, held_by
from negcache.indexes.coordinates import as_coordinates
from negcache.indexes.nested import NestedCells, group, nest
from negcache.protocols import Cache, Coordinates, Request, Score
from negcache.shapes import Float, Float64, Int, Tensor

HELD = 1 << 22
"""Numbers of coordinates, or scores, held at a time: a bound on memory."""


class Proposed(NamedTuple):
    """Items drawn from the proposal.

    Args:
        slots: of the items.
        scores: s~, the logit of each by its cached coordinates.
        log_ratios: t = s~ - V; -inf where a query may draw nothing, and the item is any.
    """

    slots: Int[Tensor, "B m s"]
    scores: Float64[Tensor, "B m s"]
    log_ratios: Float64[Tensor, "B m s"]


@dataclass(frozen=True)
class Asked:
    """The proposal as it is for the queries of one request, in slots.

    Args:
        score: of queries and coordinates.
        queries: as coordinates are scored against them.
        law: of each query over its cells, without what is excluded; in places of the table.
        table: members and ranks of the cells.
        source: the coordinates.
        reach: how fast the logit of each query can change with distance in the coordinates;
            infinite where they are not scored as they are.
    """

    score: Score
    queries: Float[Tensor, "b K"]
    law: CellLaw
    table: CellTable
    source: Coordinates
    reach: Float64[Tensor, "b"]

    def of(self, rows: Int[Tensor, "n"]) -> "Asked":
        """The same for some of the queries."""
        return replace(
            self, queries=self.queries[rows], law=self.law.of(rows), reach=self.reach[rows]
        )

    def check_radius(self) -> None:
        """Refuse coordinates that are not scored as they are: distances say nothing there.

        Raises:
            InputError: as it says.
        """
        if not self._has_radius:
            raise InputError(
                "coordinates that are scored as they are",
                "a cache that changes them in see_items",
                "use DynamicIndexChain, which needs no radius",
            )

    @property
    def _has_radius(self) -> bool:
        return bool(self.reach.isfinite().all())

    @property
    def excluded(self) -> Exclusion:
        """The slots that may not stand for each query, of those in cells."""
        return self.law.exclude.renumbered(self.table.slots(self.law.exclude.ids))

    def raised(self) -> "Asked":
        """Proposed by cells raised by their radius: no item scores above its cell."""
        return replace(self, law=replace(self.law, cut=self.law.cut.raised(self.reach)))

    def log_prob(self, slots: Int[Tensor, "M"]) -> Float64[Tensor, "b M"]:
        """log Q of distinct rows of the cache; -inf for what is excluded or in no cell.

        Args:
            slots: -1, as often as need be, for an item without a row.
        """
        return self.law.log_chance(self.table.places_or_none(slots))

    def draw(
        self, noise: Float64[Tensor, "b m 2"]
    ) -> tuple[Int[Tensor, "b m"], Float64[Tensor, "b m"]]:
        """Slots, and -log Q of each; -inf where a query may draw nothing, and the slot is any.

        No coordinates of items are looked at.
        """
        drawn = self.law.draw(noise)
        inverse = self.law.log_norm[:, None] - self.law.cut.values.gather(1, drawn.cells)
        return self.table.slots(drawn.places), self._unless_barren(inverse)

    def propose(self, noise: Float64[Tensor, "b m s 2"]) -> Proposed:
        """Draws and their scores; coordinates of the drawn items are gathered."""
        drawn = self.law.draw(noise.flatten(1, 2))
        slots = self.table.slots(drawn.places)
        scores = self._scores(slots)
        ratios = self._unless_barren(scores - self.law.cut.values.gather(1, drawn.cells))
        return Proposed(*(each.unflatten(1, noise.shape[1:3]) for each in (slots, scores, ratios)))

    def _unless_barren(self, values: Float64[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
        """-inf in place of what belongs to no item: the query may draw nothing."""
        return values.masked_fill(self.law.barren[:, None], -torch.inf)

    def log_gamma_bound(self) -> Float64[Tensor, "b"]:
        """Upper bound of log max P / Q; infinite where coordinates are not scored as they are."""
        if not self._has_radius:
            return torch.full_like(self.reach, torch.inf)
        return log_gamma_bound(self.law, self.reach)

    def enumerate(self) -> Exact:
        """gamma and acceptance from the scores of every item, a few queries at a time."""
        step = max(1, HELD // max(1, self.source.num_rows))
        parts = [self.of(some)._enumerate() for some in torch.arange(len(self.queries)).split(step)]
        return Exact(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _enumerate(self) -> Exact:
        ratios, log_q = [], []
        for first, block in self.source.coordinate_chunks(max(1, HELD // self.queries.shape[1])):
            slots = torch.arange(first, first + len(block), device=self.queries.device)
            scores = self.score(self.queries, self.source.see_items(block)).double()
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
            items = self.source.see_items(self.source.coordinates(some.flatten()))
            items = items.to(queries.dtype).view(*some.shape, -1)
            parts.append(self.score.paired(queries, items).detach().double())
        return torch.cat(parts)


class ClusterProposal:
    """Cells over a cache, and the cut that a query makes through them.

    Args:
        cache: of coordinates, or of whole embeddings, which are then their own coordinates.
        index: keeps the cells; it is attached to the cache. None: ``KMeansCells()``.
        expand: coarse cells that each query looks into; 0: all cells are scored for all queries.
    """

    def __init__(self, cache: Cache, index: CellIndex | None = None, expand: int = 0) -> None:
        if expand < 0:
            raise InputError("expand of 0 or more", f"{expand}", "0 scores all cells")
        index = KMeansCells() if index is None else index
        self.source, self.index, self.expand = as_coordinates(cache), index, expand
        self._nested: NestedCells | None = None
        self._of: CellTable | None = None
        self._parents = torch.empty(0, dtype=torch.long)
        cache.attach(index)

    @property
    def held(self) -> HeldCells:
        """Bytes of the tables: of the index, and of its cells of cells."""
        nested = () if self._nested is None else (self._nested.coarse, self._nested.fine)
        return held_by([self.index.table, *nested])

    @torch.no_grad()
    def ask(self, request: Request) -> Asked:
        """Score the cells for the queries of a request."""
        self.index.follow(self.source)
        table, queries = self.index.table, self.source.see_queries(request.queries)
        score = request.score
        if not self.expand:
            cut, reach = self._cut(table, queries, score)
        else:
            nested = self._nest(table)
            coarse, reach = self._cut(nested.coarse, queries, score)
            centres = self.source.see_items(nested.fine.centres).to(queries.dtype)
            cut = nested.cut(queries, score, centres, coarse, self.expand)
            table = nested.fine
        places = table.places_or_none(self.source.slots(request.exclude.ids))
        law = CellLaw(cut, request.exclude.renumbered(places))
        return Asked(score, queries, law, table, self.source, reach)

    def _cut(
        self, table: CellTable, queries: Float[Tensor, "B K"], score: Score
    ) -> tuple[Cut, Float64[Tensor, "B"]]:
        """The cells as all queries see them; and how fast logits change with distance."""
        centres = self.source.see_items(table.centres)
        values = score(queries, centres.to(queries.dtype)).detach().double()
        shared = (table.offsets[:-1], table.sizes, table.radius.double())
        cut = Cut(values, *(field.expand(len(queries), -1) for field in shared))
        reach = score.scale.detach().double() * queries.double().norm(dim=1)
        as_they_are = centres.shape == table.centres.shape and torch.equal(centres, table.centres)
        return cut, reach if as_they_are else torch.full_like(reach, torch.inf)

    def _nest(self, table: CellTable) -> NestedCells:
        """The two-level table; coarse cells stay while the centres do."""
        if self._nested is None or self._of is not table:
            same = self._of is not None and self._of.centres is table.centres
            self._parents = self._parents if same else group(table.centres)
            self._nested, self._of = nest(table, self._parents), table
        return self._nested
