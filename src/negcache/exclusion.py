"""Which items may not stand for which query: positives never count as negatives."""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import torch

from negcache.distributed import Mesh
from negcache.shapes import Bool, Int, Tensor

WIDE = 1 << 62
"""A key of a row and an id is below it, or ids are numbered anew first."""


@dataclass(frozen=True)
class Exclusion:
    """The items that may not stand for each query of a batch, its own target first of all.

    A compressed sparse row table.

    Args:
        offsets: [B + 1]; row ``b`` owns ``ids[offsets[b]:offsets[b + 1]]``.
        ids: item ids, ascending and distinct within each row.

    Examples:
        >>> two = Exclusion.from_pairs(torch.tensor([0, 1, 1]), torch.tensor([7, 9, 3]), num_rows=2)
        >>> two.counts.tolist(), two.ids.tolist()
        ([1, 2], [7, 3, 9])
    """

    offsets: Int[Tensor, "_"]
    ids: Int[Tensor, "E"]

    @staticmethod
    def from_pairs(rows: Int[Tensor, "P"], ids: Int[Tensor, "P"], num_rows: int) -> "Exclusion":
        """Build the table from (query row, item id) pairs in any order, repeats allowed."""
        rows, ids = rows.long(), ids.long()  # narrower products would overflow
        span, numbers = _span_of(ids), None
        if span * num_rows >= WIDE:
            numbers, ids = torch.unique(ids, return_inverse=True)  # so may those of hashed ids
            span = len(numbers)
        keys = torch.unique(rows * span + ids)  # sorted by row, then by id
        counts = torch.bincount(keys // span, minlength=num_rows)
        found = keys % span
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Exclusion(offsets, found if numbers is None else numbers[found])

    def gathered(self, mesh: Mesh, entries: list[int], rows: list[int]) -> "Exclusion":
        """The tables of all processes, one below the other.

        Args:
            entries: of every process.
            rows: of every process.
        """
        counts = mesh.gather(self.counts, rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Exclusion(offsets, mesh.gather(self.ids, entries))

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Int[Tensor, "B"]:
        """How many items each query may not draw."""
        return self.offsets.diff()

    @cached_property
    def by_id(self) -> tuple[Int[Tensor, "E"], Int[Tensor, "E"]]:
        """All entries in the order of their ids, and the query of each: for passes over rows."""
        order = self.ids.argsort()
        return self.ids[order], self.rows[order]

    def between(self, first: int, stop: int) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
        """The query of each entry from ``first`` to before ``stop``, and its id less ``first``."""
        lo, hi = (bisect_left(self._in_order, each) for each in (first, stop))
        ids, rows = self.by_id
        return rows[lo:hi], ids[lo:hi] - first

    @cached_property
    def _in_order(self) -> list[int]:
        return self.by_id[0].tolist()

    @cached_property
    def rows(self) -> Int[Tensor, "E"]:
        """The query of each entry of ``ids``."""
        return torch.repeat_interleave(self.counts, output_size=self.ids.numel())

    def and_also(self, rows: Int[Tensor, "P"], ids: Int[Tensor, "P"]) -> "Exclusion":
        """This table with more (query row, item id) pairs."""
        pairs = torch.cat([self.rows, rows]), torch.cat([self.ids, ids])
        return Exclusion.from_pairs(*pairs, num_rows=self.num_rows)

    def renumbered(self, numbers: Int[Tensor, "E"]) -> "Exclusion":
        """This table with other numbers for its entries; entries numbered -1 are left out.

        Args:
            numbers: distinct for each query, but for -1.
        """
        kept = numbers >= 0
        numbers, rows = numbers[kept], self.rows[kept]
        span = _span_of(numbers)
        if span * self.num_rows >= WIDE:
            return Exclusion.from_pairs(rows, numbers, self.num_rows)
        firsts = rows * span
        return Exclusion(self._offsets_of(kept), (firsts + numbers).sort().values - firsts)

    def within(self, ids: Int[Tensor, "M"]) -> "Exclusion":
        """This table in places among ascending distinct ids; entries not among them are left out.

        Costs E log M steps, not B M.
        """
        if not len(ids):
            return Exclusion(torch.zeros_like(self.offsets), self.ids[:0])
        place = torch.searchsorted(ids, self.ids).clamp_(max=len(ids) - 1)
        kept = ids[place] == self.ids
        return Exclusion(self._offsets_of(kept), place[kept])

    def _offsets_of(self, kept: Bool[Tensor, "E"]) -> Int[Tensor, "_"]:
        """Of a table of some of the entries."""
        return torch.cat([self.offsets[:1], kept.cumsum(0)])[self.offsets]  # they begin at 0

    def slice(self, start: int, stop: int) -> "Exclusion":
        """The table of queries ``start`` to ``stop``."""
        offsets = self.offsets[start : stop + 1]
        return Exclusion(offsets - offsets[0], self.ids[int(offsets[0]) : int(offsets[-1])])

    def of(self, rows: Int[Tensor, "b"]) -> "Exclusion":
        """The table of some of the queries."""
        counts = self.counts[rows]
        ends = counts.cumsum(0)
        offsets = torch.cat([counts.new_zeros(1), ends])
        further = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], counts)
        entries = torch.arange(len(further), device=rows.device) + further
        return Exclusion(offsets, self.ids[entries])

    def below(self, ids: Int[Tensor, "B m"], num_items: int) -> Int[Tensor, "B m"]:
        """How many of each query's excluded items have smaller ids than these.

        Args:
            num_items: none of the ids is above it.
        """
        span, rows = num_items + 1, torch.arange(len(ids), device=ids.device)[:, None]
        found = torch.searchsorted(self.rows * span + self.ids, rows * span + ids)
        return found - self.offsets[:-1, None]

    def allowed(self, ranks: Int[Tensor, "B m"], num_items: int) -> Int[Tensor, "B m"]:
        """The items of these ranks, from 0, among those that each query may draw.

        Some item where a query has none of this rank.
        """
        # The k-th excluded id e_k (from 0) has e_k - k allowed items below it.
        position = torch.arange(len(self.ids), device=ranks.device) - self.offsets[self.rows]
        span, rows = num_items + 1, torch.arange(len(ranks), device=ranks.device)[:, None]
        keys = self.rows * span + self.ids - position
        stepped = torch.searchsorted(keys, rows * span + ranks, right=True)
        return (ranks + stepped - self.offsets[:-1, None]).clamp_(max=num_items - 1)

    def contains(
        self, rows: Int[Tensor, "*shape"], ids: Int[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Whether item ``ids[i]`` may not stand for query ``rows[i]``."""
        if not self.ids.numel():
            return torch.zeros_like(ids, dtype=torch.bool)
        span = _span_of(self.ids)
        if span * self.num_rows >= WIDE:
            return self._contains_hashed(rows, ids)
        keys, wanted = self.rows * span + self.ids, rows * span + ids
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return (keys[place] == wanted) & (ids >= 0) & (ids < span)

    def _contains_hashed(self, rows: Tensor, ids: Tensor) -> Bool[Tensor, "*shape"]:
        """The same where keys of rows and ids would overflow: ids are numbered anew."""
        distinct, own = torch.unique(self.ids, return_inverse=True)
        ranks = torch.searchsorted(distinct, ids.contiguous()).clamp_(max=len(distinct) - 1)
        keys, wanted = self.rows * len(distinct) + own, rows * len(distinct) + ranks
        place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return (keys[place] == wanted) & (distinct[ranks] == ids)

    def hits(self, ids: Int[Tensor, "B m"]) -> Bool[Tensor, "B m"]:
        """Which of each query's own ids may not stand for it."""
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        return self.contains(rows.expand_as(ids), ids)

    def among(self, ids: Int[Tensor, "M"]) -> tuple[Int[Tensor, "e"], Int[Tensor, "e"]]:
        """The (query, column) pairs of distinct ids that may not stand for the query.

        Looks each excluded id up among ``ids``: E log M steps, not B M.
        """
        if not len(ids):
            return self.ids[:0], self.ids[:0]
        ordered, order = ids.sort()
        place = torch.searchsorted(ordered, self.ids).clamp_(max=len(ids) - 1)
        found = ordered[place] == self.ids
        return self.rows[found], order[place[found]]

    def mask(self, ids: Int[Tensor, "M"]) -> Bool[Tensor, "B M"]:
        """Every query against the same distinct ids: True where the item may not stand for it."""
        excluded = torch.zeros(self.num_rows, len(ids), dtype=torch.bool, device=ids.device)
        excluded[self.among(ids)] = True
        return excluded


def _span_of(ids: Int[Tensor, "E"]) -> int:
    """None of the ids is as high; ``WIDE`` where some are below 0."""
    if not len(ids):
        return 1
    lowest, highest = map(int, ids.aminmax())
    return highest + 1 if lowest >= 0 else WIDE
