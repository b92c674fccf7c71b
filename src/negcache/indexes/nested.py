"""Clusters of clusters: coarse ones over fine ones, so that a query refines only where it must."""

from dataclasses import dataclass, replace

import torch

from negcache.indexes.cluster_table import ClusterTable
from negcache.ops.cluster_draw import Partition, refined
from negcache.ops.lloyd import distance, lloyd, nearest
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor

ITERATIONS = 5
"""Of Lloyd's algorithm, over the centres of the fine clusters."""

PRODUCT = 64
"""So many scores in one product cost as much as one whose row is gathered, about, on a CPU."""


@dataclass(frozen=True)
class NestedClusters:
    """Two tables over the same members in the same order.

    Args:
        coarse: clusters of fine clusters.
        fine: clusters of items, those of one coarse cluster in a row.
        offsets: [G0 + 1]; coarse cluster ``g`` holds the fine clusters from ``offsets[g]`` on.
    """

    coarse: ClusterTable
    fine: ClusterTable
    offsets: Int[Tensor, "_"]

    def partition(
        self,
        queries: Float[Tensor, "B K"],
        score: Score,
        centres: Float[Tensor, "G K"],
        coarse_partition: Partition,
        expand: int,
    ) -> Partition:
        """Each query's ``expand`` best coarse clusters give way to their fine clusters.

        Args:
            centres: of the fine clusters, as they are scored.
            coarse_partition: the coarse clusters, as every query sees them.
        """
        alive = coarse_partition.values.masked_fill(coarse_partition.size == 0, -torch.inf)
        chosen = alive.topk(min(expand, alive.shape[1]), dim=1).indices
        counts = self.offsets.diff()[chosen]
        ends = counts.cumsum(1)
        column = torch.arange(int(ends[:, -1].max()), device=ends.device).repeat(len(ends), 1)
        which = torch.searchsorted(ends, column, right=True)  # of the chosen: one after the other
        used, which = which < chosen.shape[1], which.clamp(max=chosen.shape[1] - 1)
        starts = self.offsets[chosen] - ends + counts
        clusters = (starts.gather(1, which) + column).where(used, 0)
        if len(centres) <= PRODUCT * clusters.shape[1]:
            values = score(queries, centres).detach().gather(1, clusters)
        else:
            values = score.paired(queries, centres[clusters]).detach()
        fine = self.fine
        children = Partition(
            values, fine.offsets[clusters], fine.sizes[clusters], fine.radius[clusters]
        )
        return refined(coarse_partition, chosen, children, used)


def group(centres: Float[Tensor, "G C"]) -> Int[Tensor, "G"]:
    """A coarse cluster for each fine one, about 2 sqrt(G) of them, from the centres alone."""
    wanted = min(len(centres), max(1, round(2 * len(centres) ** 0.5)))
    coarse = lloyd(centres, wanted, ITERATIONS, torch.Generator().manual_seed(0))
    return torch.unique(nearest(centres, coarse)[0], return_inverse=True)[1]


def nest(table: ClusterTable, parents: Int[Tensor, "G"]) -> NestedClusters:
    """The fine table in the order of its parents, and the coarse one above it."""
    order = parents.argsort(stable=True)
    parents = parents[order]
    fine = ClusterTable.of(table.cells, table.centres[order], table.radius[order], order)
    counts = torch.bincount(parents)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    centres, radius = _around(fine, parents, len(counts))
    coarse = replace(fine, centres=centres, offsets=fine.offsets[offsets], radius=radius)
    return NestedClusters(coarse, fine, offsets)


def _around(
    fine: ClusterTable, parents: Int[Tensor, "G"], num_parents: int
) -> tuple[Float[Tensor, "G0 C"], Float[Tensor, "G0"]]:
    """About the mean of the members of each coarse cluster, and a radius that holds all of it."""
    weight = fine.sizes.to(fine.centres.dtype).clamp_min(torch.finfo(fine.centres.dtype).eps)
    sums = fine.centres.new_zeros(num_parents, fine.centres.shape[1])
    total = weight.new_zeros(num_parents).index_add_(0, parents, weight)
    sums.index_add_(0, parents, fine.centres * weight[:, None])
    centres = sums / total[:, None]
    extent = distance(fine.centres, centres, parents) + fine.radius
    return centres, extent.new_zeros(num_parents).scatter_reduce_(0, parents, extent, "amax")
