"""Cells of cells: a coarse table over a fine one, so that a query refines only where it must."""

from dataclasses import dataclass

import torch

from negcache.functional.cluster_draw import Cut, refined
from negcache.functional.lloyd import distance, lloyd, nearest
from negcache.indexes.cells import CellTable
from negcache.protocols import Score
from negcache.shapes import Float, Int, Tensor

ITERATIONS = 5
"""Of Lloyd's algorithm, over the centres of the fine cells."""

PRODUCT = 64
"""So many scores in one product cost as much as one whose row is gathered, about, on a CPU."""


@dataclass(frozen=True)
class NestedCells:
    """Two tables over the same members in the same order.

    Args:
        coarse: cells of fine cells.
        fine: cells of items, those of one coarse cell in a row.
        offsets: [G0 + 1]; coarse cell ``g`` holds the fine cells from ``offsets[g]`` on.
    """

    coarse: CellTable
    fine: CellTable
    offsets: Int[Tensor, "_"]

    def cut(
        self,
        queries: Float[Tensor, "B K"],
        score: Score,
        centres: Float[Tensor, "G K"],
        coarse_cut: Cut,
        expand: int,
    ) -> Cut:
        """Each query's ``expand`` best coarse cells give way to their fine cells.

        Args:
            centres: of the fine cells, as they are scored.
            coarse_cut: the coarse cells, as every query sees them.
        """
        alive = coarse_cut.values.masked_fill(coarse_cut.size == 0, -torch.inf)
        chosen = alive.topk(min(expand, alive.shape[1]), dim=1).indices
        counts = self.offsets.diff()[chosen]
        ends = counts.cumsum(1)
        column = torch.arange(int(ends[:, -1].max()), device=ends.device).repeat(len(ends), 1)
        which = torch.searchsorted(ends, column, right=True)  # of the chosen: one after the other
        used, which = which < chosen.shape[1], which.clamp(max=chosen.shape[1] - 1)
        starts = self.offsets[chosen] - ends + counts
        cells = (starts.gather(1, which) + column).where(used, 0)
        if len(centres) <= PRODUCT * cells.shape[1]:
            values = score(queries, centres).detach().gather(1, cells).double()
        else:
            values = score.paired(queries, centres[cells]).detach().double()
        fine = self.fine
        children = Cut(values, fine.offsets[cells], fine.sizes[cells], fine.radius[cells])
        return refined(coarse_cut, chosen, children, used)


def group(centres: Float[Tensor, "G C"]) -> Int[Tensor, "G"]:
    """A coarse cell for each fine one, about 2 sqrt(G) of them: a function of the centres alone."""
    wanted = min(len(centres), max(1, round(2 * len(centres) ** 0.5)))
    coarse = lloyd(centres, wanted, ITERATIONS, torch.Generator().manual_seed(0))
    return torch.unique(nearest(centres, coarse)[0], return_inverse=True)[1]


def nest(table: CellTable, parents: Int[Tensor, "G"]) -> NestedCells:
    """The fine table in the order of its parents, and the coarse one above it."""
    order = parents.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    labels, parents = table.labels, parents[order]
    fine = CellTable.from_labels(
        place.cpu()[labels].where(labels >= 0, -1), table.centres[order], table.radius[order]
    )
    counts = torch.bincount(parents)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    centres, radius = _around(fine, parents, len(counts))
    coarse = CellTable(centres, fine.offsets[offsets], fine.members, fine.ranks, radius)
    return NestedCells(coarse, fine, offsets)


def _around(
    fine: CellTable, parents: Int[Tensor, "G"], num_parents: int
) -> tuple[Float[Tensor, "G0 C"], Float[Tensor, "G0"]]:
    """Mean of the members of each coarse cell, about, and a radius that holds all its cells."""
    weight = fine.sizes.to(fine.centres.dtype).clamp_min(torch.finfo(fine.centres.dtype).eps)
    sums = fine.centres.new_zeros(num_parents, fine.centres.shape[1])
    total = weight.new_zeros(num_parents).index_add_(0, parents, weight)
    sums.index_add_(0, parents, fine.centres * weight[:, None])
    centres = sums / total[:, None]
    reach = distance(fine.centres, centres, parents) + fine.radius
    return centres, reach.new_zeros(num_parents).scatter_reduce_(0, parents, reach, "amax")
