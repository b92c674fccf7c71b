"""The cluster proposal: a cluster by its size and the score of its centre, then any of its members.

``Q(y) = exp(V_c) / Zhat`` for every member y of cluster c that may stand for the query, of which
there are n_c, and ``Zhat = sum_c n_c exp(V_c)``: a law over these items from the scores of the
centres alone. It is exact for the clusters used, however old these are. Source: Monath et al.,
AISTATS 2023; that what is excluded has no part in it is ours.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from negcache.distributed import ALONE, Mesh
from negcache.exclusion import Exclusion
from negcache.ops.cpu_chances import Chances, chances_of, takes
from negcache.ops.mass_table import LogMasses, MassTable, table_of, whole_blocks
from negcache.ops.shards import best_of_all
from negcache.shapes import Bool, Float, Float64, Int, Tensor


class Partition(NamedTuple):
    """For each query a partition of the items, which stand in a row, into clusters of neighbours.

    Clusters come in the order of their members. What a query does not use, to fill a row up, has
    the value -inf, size 0, and lies behind all items. Where all queries share the clusters, fields
    other than the values are one row, expanded, and what follows from them is found once.

    Args:
        values: V, the logit of each cluster's centre.
        first: place of each cluster's first member.
        size: number of its members.
        radius: distance within which all members are of the centre.
    """

    values: Float[Tensor, "B W"]
    first: Int[Tensor, "B W"]
    size: Int[Tensor, "B W"]
    radius: Float[Tensor, "B W"]

    def of(self, rows: Int[Tensor, "b"] | slice) -> "Partition":
        """The partition of some of the queries."""
        values = self.values[rows]
        return Partition(
            values,
            *(
                field[:1].expand(len(values), -1) if is_one_row(field) else field[rows]
                for field in self[1:]
            ),
        )

    @property
    def num_items(self) -> int:
        """Places of the row of items: the last cluster of every query ends there."""
        return int(self.first[0, -1] + self.size[0, -1]) if self.first.numel() else 0

    def envelope(self, lipschitz: Float64[Tensor, "B"]) -> "Partition":
        """With ``V + lipschitz radius``: no member scores above it.

        Args:
            lipschitz: how fast the logit of each query can change with distance: scale times norm.
        """
        return self._replace(values=self.values + lipschitz[:, None] * self.radius)


class Lessened(NamedTuple):
    """(query, cluster) pairs, ascending, some of whose members the query may not draw.

    Args:
        keys: ``row * W + column``.
        left: members that it may draw.
    """

    keys: Int[Tensor, "P"]
    rows: Int[Tensor, "P"]
    columns: Int[Tensor, "P"]
    left: Int[Tensor, "P"]

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        return self.rows, self.columns


class Members(NamedTuple):
    """Drawn items: the cluster of each in its query's partition, and its place among all items."""

    clusters: Int[Tensor, "B *m"]
    places: Int[Tensor, "B *m"]


@dataclass(frozen=True)
class ClusterLaw:
    """Q of each query; what follows from it is worked out once.

    Args:
        partition: the clusters with all of their members.
        exclude: the places of the items that may not stand for each query; Q gives them nothing.
    """

    partition: Partition
    exclude: Exclusion

    def of(self, rows: Int[Tensor, "b"]) -> "ClusterLaw":
        """The law of some of the queries."""
        return ClusterLaw(self.partition.of(rows), self.exclude.of(rows))

    @cached_property
    def lessened(self) -> "Lessened":
        """Clusters of which a query may not draw some members."""
        partition, rows = self.partition, self.exclude.rows
        width = partition.values.shape[1]
        # In the order of rows and places, so also of clusters.
        held = rows * width + clusters_holding(partition, rows, self.exclude.ids)
        keys, gone = torch.unique_consecutive(held, return_counts=True)
        rows, columns = keys // width, keys % width
        return Lessened(keys, rows, columns, partition.size[rows, columns] - gone)

    @cached_property
    def of_clusters(self) -> LogMasses:
        """log of ``n_c exp(V_c)``."""
        values, less, size = self.partition.values, self.lessened, self.partition.size
        size = size[:1] if is_one_row(size) else size
        starts = torch.arange(len(values) + 1, device=values.device) * values.shape[1]
        return LogMasses(
            logits=values,
            bias=size.to(values.dtype).log(),
            offsets=torch.searchsorted(less.keys, starts),
            columns=less.columns,
            instead=values[less.where] + less.left.to(values.dtype).log(),
        )

    @property
    def log_masses(self) -> Float[Tensor, "B W"]:
        """The same as a table, made at each asking."""
        of = self.of_clusters
        masses = of.logits + of.bias
        masses[self.lessened.where] = of.instead
        return masses

    @cached_property
    def log_norm(self) -> Float64[Tensor, "B"]:
        """log Zhat; -inf where a query may draw nothing."""
        return self.chances.log_total

    @property
    def empty(self) -> Bool[Tensor, "B"]:
        """Which queries may draw nothing."""
        return self.log_norm == -torch.inf

    @cached_property
    def chances(self) -> Chances | MassTable:
        """Of the clusters, in the values' own precision; sums of them in float64."""
        of = self.of_clusters
        compiled = len(of.bias) == 1 and takes(of.logits, of.logits.numel())
        return chances_of(of) if compiled else self.table

    @cached_property
    def table(self) -> MassTable:
        """The masses of the clusters."""
        queries, width = self.partition.values.shape
        masses = self.partition.values.new_empty(queries, whole_blocks(width))
        return table_of(self.of_clusters, masses)

    def draw(self, noise: Float64[Tensor, "B m 2"]) -> Members:
        """Independent draws: a uniform each for the cluster and for the member.

        Some item where a query may draw nothing.
        """
        clusters = self.chances.draw(noise[..., :1]).clamp_(max=self.partition.values.shape[1] - 1)
        if isinstance(self.chances, Chances):
            return Members(clusters, self._members_by_compiled_code(clusters, noise[..., 1]))
        return Members(clusters, self._members(clusters, noise[..., 1]))

    def _members(
        self, clusters: Int[Tensor, "B m"], uniforms: Float64[Tensor, "B m"]
    ) -> Int[Tensor, "B m"]:
        partition, exclude, num_items = self.partition, self.exclude, self.partition.num_items
        first, size = partition.first.gather(1, clusters), partition.size.gather(1, clusters)
        ends = exclude.below(torch.cat([first, first + size], dim=1), num_items)
        before, after = ends.split(first.shape[1], dim=1)
        left = size - after + before
        inside = torch.minimum((uniforms * left).long(), left - 1).clamp_min(0)
        return exclude.allowed(first - before + inside, num_items)

    def _members_by_compiled_code(
        self, clusters: Int[Tensor, "B m"], uniforms: Float64[Tensor, "B m"]
    ) -> Int[Tensor, "B m"]:
        """The same of clusters that all queries share, on a CPU."""
        from negcache.compiled.members import Places, draw_members

        found, exclude = torch.empty_like(clusters), self.exclude
        own = self.partition.first[0], self.partition.size[0], exclude.offsets, exclude.ids
        of = Places(*(each.contiguous().numpy() for each in own))
        arrays = (each.contiguous().numpy() for each in (clusters, uniforms, found))
        draw_members(of, *arrays)
        return found

    def log_chance(self, places: Int[Tensor, "M"]) -> Float64[Tensor, "B M"]:
        """log Q of each item, for every query; -inf at place -1, which no item has."""
        partition, inside = self.partition, places.clamp_min(0)
        if is_one_row(partition.first):
            values = partition.values[:, clusters_of_one_row(partition, inside)]
        else:
            rows = torch.arange(len(partition.values), device=places.device)[:, None]
            rows = rows.expand(-1, len(places))
            values = partition.values.gather(
                1, clusters_holding(partition, rows, inside.expand_as(rows))
            )
        nothing = self.exclude.mask(places) | (places < 0)
        return (values - self.log_norm[:, None]).masked_fill(nothing, -torch.inf)

    def best(self, count: int, mesh: Mesh = ALONE) -> "ClusterLaw":
        """The law of the ``count`` clusters of highest V: items of the others are never drawn.

        Of those that are as high as the last of them, all.

        Args:
            mesh: processes, each with a law over clusters of its own: the highest of all.
        """
        values = self.partition.values
        alive = values.masked_fill(self.log_masses == -torch.inf, -torch.inf)
        mine = alive.topk(min(count, alive.shape[1]), dim=1)
        _, highest = best_of_all(mesh, mine.indices, mine.values, count)
        kept = alive >= highest[:, -1:]
        return replace(
            self, partition=self.partition._replace(values=values.where(kept, -torch.inf))
        )


def clusters_holding(
    partition: Partition, rows: Int[Tensor, "*shape"], places: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """Which cluster of query ``rows[i]`` the item at ``places[i]`` is in."""
    if is_one_row(partition.first):
        return clusters_of_one_row(partition, places)
    width, span = partition.first.shape[1], partition.num_items + 1
    queries = torch.arange(len(partition.first), device=rows.device)[:, None]
    found = torch.searchsorted(
        (queries * span + partition.first).flatten(), rows * span + places, right=True
    )
    return found - 1 - rows * width


def refined(
    coarse: Partition,
    chosen: Int[Tensor, "B T"],
    children: Partition,
    used: Bool[Tensor, "B n"],
) -> Partition:
    """The adaptive partition: chosen coarse clusters give way to their children, others stay.

    Args:
        coarse: the partition that all queries start from.
        chosen: distinct columns of ``coarse``.
        children: the children of the chosen, in any order.
        used: which columns of ``children`` are no filling.
    """
    kept = torch.ones_like(coarse.values, dtype=torch.bool).scatter_(1, chosen, False)
    used = torch.cat([kept, used], dim=1)
    values, first, size, radius = (
        torch.cat(pair, dim=1) for pair in zip(coarse, children, strict=True)
    )
    behind = coarse.num_items
    values = values.masked_fill(~used, -torch.inf)
    first, size = first.masked_fill(~used, behind), size.masked_fill(~used, 0)
    order = (2 * first + size.clamp(max=1)).argsort(dim=1)  # the empty before what starts there
    fields = (values, first, size, radius.to(values.dtype))
    return Partition(*(field.gather(1, order) for field in fields))


def is_one_row(field: Tensor) -> bool:
    """Whether all queries share it: one row, expanded."""
    return len(field) > 0 and field.stride(0) == 0


def clusters_of_one_row(
    partition: Partition, places: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    return torch.searchsorted(partition.first[0].contiguous(), places, right=True) - 1
