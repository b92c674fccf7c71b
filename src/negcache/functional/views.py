"""Some of the rows of a cache, as if they were all: what a step that scores a fraction looks at."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from negcache.functional.two_stage import CELL
from negcache.protocols import Request, Rows
from negcache.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class CellView:
    """The given cells of a cache, in order, with slots of their own.

    Args:
        base: the rows looked at.
        cells: distinct, ascending.
    """

    base: Rows
    cells: Int[Tensor, "cells"]

    @property
    def num_rows(self) -> int:
        whole = len(self.cells) * CELL
        last = (int(self.cells[-1]) + 1) * CELL
        return whole - max(0, last - self.base.num_rows)

    @property
    def coverage(self) -> float:
        return self.base.coverage * len(self.cells) / _num_cells(self.base)

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.base.valid[self._in_base(self._slots(0, self.num_rows))]

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, self.num_rows, size):
            yield first, self.rows(self._slots(first, min(first + size, self.num_rows)))

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.base.rows(self._in_base(slots))

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        base = self.base.slots(ids)
        place = torch.full((_num_cells(self.base),), -1, device=self.cells.device)
        place[self.cells] = torch.arange(len(self.cells), device=self.cells.device)
        cell = place[base.clamp_min(0) // CELL]
        return torch.where((base >= 0) & (cell >= 0), cell * CELL + base % CELL, -1)

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.base.ids(self._in_base(slots))

    def _slots(self, first: int, last: int) -> Tensor:
        return torch.arange(first, last, device=self.cells.device)

    def _in_base(self, slots: Tensor) -> Tensor:
        return self.cells[slots // CELL] * CELL + slots % CELL


def some_cells(rows: Rows, fraction: float, generator: torch.Generator) -> Int[Tensor, "cells"]:
    """A stratified random share of the cells: each is in with the same chance, evenly spread.

    Systematic sampling: one uniform decides the place within all of the equally long strata.
    """
    total = _num_cells(rows)
    count = min(total, max(1, round(fraction * total)))
    start = torch.rand((), generator=generator, dtype=torch.float64)
    cells = ((torch.arange(count) + start) * (total / count)).long()
    return cells.clamp_(max=total - 1).to(rows.valid.device)


def within(request: Request, rows: Rows) -> Request:
    """The request with its exclusions in slots; items without a slot cannot be drawn anyway."""
    ids = request.exclude.ids
    slots = rows.slots(ids)
    return request if slots is ids else replace(request, exclude=request.exclude.renumbered(slots))


def _num_cells(rows: Rows) -> int:
    return math.ceil(rows.num_rows / CELL)
