"""Sums of kernel features over blocks of rows and over nodes of blocks: the mass of many rows.

The kernel is an inner product of features, so the mass of a node under a query is one product with
the node's sum, whatever the number of rows below it. The split is by row number: blocks of
``BLOCK`` rows, then nodes of ``ARITY`` blocks, and so on up to a level that is scored for a whole
batch by one matrix product. A row is never looked at through its features, which are as large as a
block's rows: inside a block the exact kernel is cheaper. Source: Blanc & Rendle 2018, section 3.2.
"""

from typing import Any

import torch
from torch.nn import functional as F

from negcache.errors import InputError
from negcache.interfaces import Store
from negcache.messages import RowChange
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.grouped import groups_of
from negcache.ops.kernels import Kernel
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import refuse_coordinates
from negcache.validation import check_room

ARITY = 8
"""Nodes below a node."""

TOP = 2048
"""Nodes that the uppermost level may have: what a matrix product does faster than a descent."""

HELD = 1 << 23
"""Numbers held at a time while features are listed: a bound on memory."""


class KernelSums:
    """The sums of a store's rows; follows the store once it has been built.

    Adding and subtracting the features of rows that moved drifts by rounding; when as many rows
    have moved as there are, everything is summed anew.

    Args:
        rows: whose features are summed; the sums must observe it to follow.
        kernel: what linearises the kernel.
        every: bring the sums up to date at every so many changes, blocks as a whole; 1: at each,
            row by row. Old sums cost efficiency alone, never the honesty of a draw's weights.

    Attributes:
        levels: from the blocks up, [n, F] sums, padded to a multiple of ``ARITY`` below the top.
        counts: valid rows below every node, [n].
        rounded: the uppermost float32 level in bfloat16, where the processor multiplies that by
            itself, four times as fast. Its masses are right to three digits, which costs efficiency
            like old sums do; a draw's chance is that of the masses it was drawn by.
    """

    arity = ARITY

    def __init__(self, rows: Store, kernel: Kernel, *, every: int = 1) -> None:
        if every < 1:
            raise InputError("every of 1 or more changes", f"{every}", "1 follows each change")
        refuse_coordinates(rows, "sums of kernel features")
        self.rows, self.kernel, self.every = rows, kernel, every
        self.moved, self.changes = 0, 0
        self.behind = torch.zeros(0, dtype=torch.bool, device="cpu")  # of no rows, on any device
        self.levels: list[Tensor] = []
        self.counts: list[Tensor] = []
        self.rounded: Tensor | None = None

    @property
    def _num_blocks(self) -> int:
        return -(-self.rows.num_rows // BLOCK)

    def build(self, queries: Float[Tensor, "B D"], scale: Tensor) -> None:
        """Sum over all rows, once; later calls do nothing.

        Args:
            queries: of the request; their dtype and device are those of the sums.
            scale: of the score, for the kernel's own checks.

        Raises:
            InputError: the sums do not fit into memory, or the rows do not suit the kernel.
        """
        if self.levels:
            there = self.levels[0]
            if (there.dtype, there.device) == (queries.dtype, queries.device):
                return
        with torch.inference_mode(False):
            self._build(queries, scale)

    def invalidate(self) -> None:
        """The rows have been replaced as a whole: the next draw sums them anew."""
        self.levels, self.counts, self.moved, self.changes = [], [], 0, 0
        self.rounded = None

    def rows_changed(self, change: RowChange) -> None:
        """Rows have moved: bring the sums of their paths up to date.

        Raises:
            InputError: new rows do not suit the kernel, or are not finite.
        """
        if not self.levels or not len(change.slots):
            return
        new = change.new if change.is_valid.all() else change.new[change.is_valid]
        self.kernel.check(new, torch.tensor(torch.inf))
        self.moved, self.changes = self.moved + len(change.slots), self.changes + 1
        self._count(change)
        self.behind[change.slots // BLOCK] = True
        if self.changes % self.every:
            return
        nodes = self.behind.nonzero().squeeze(1)
        self.behind.fill_(False)
        if self.moved >= self.rows.num_rows:
            self.moved, nodes = 0, torch.arange(self._num_blocks, device=nodes.device)
            self._sum_blocks(nodes)
        elif self.every > 1:
            self._sum_blocks(nodes)
        else:
            self._shift(change)
        for level in range(1, len(self.levels)):
            nodes = torch.unique_consecutive(nodes // ARITY)
            self._sum_children(level, nodes)
        if self.rounded is not None:
            self.rounded[nodes] = self.levels[-1][nodes].bfloat16()

    def top_masses(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B n"]:
        """The kernel summed over the rows below each uppermost node, for every query."""
        if self.rounded is None:
            return features @ self.levels[-1].T
        return (features.bfloat16() @ self.rounded.T).to(features.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The sums of the blocks; those above follow from them."""
        names = ("moved", "changes", "behind")
        own = {name: getattr(self, name) for name in names}
        own |= {"levels": self.levels[:1], "counts": self.counts[:1]}
        return own | {"kernel": self.kernel.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        wanted, got = _padded(self._num_blocks), [len(table) for table in state["levels"]]
        if got and got != [wanted]:
            raise InputError(
                f"sums of {wanted} blocks of rows",
                f"{got[0]}",
                "build the table as when it was saved",
            )
        self.kernel.load_state_dict(state["kernel"])
        self.moved, self.changes = int(state["moved"]), int(state["changes"])
        self.behind = state["behind"].clone()
        self.levels = [table.clone() for table in state["levels"]]
        self.counts = [count.clone() for count in state["counts"]]
        if self.levels:
            self._grow()

    def _build(self, queries: Float[Tensor, "B D"], scale: Tensor) -> None:
        features = self.kernel.num_features(queries.shape[1])
        blocks, width = self._num_blocks, queries.element_size()
        check_room(
            int(blocks * features * width * ARITY / (ARITY - 1)),
            queries.device,
            f"{blocks} sums of {features} features",
            "take fewer frequencies, or project to fewer dimensions first",
        )
        self.invalidate()
        valid = self.rows.valid
        for first, block in self.rows.chunks(max(1, HELD // queries.shape[1])):
            self.kernel.check(block[valid[first : first + len(block)]], scale)
        self.levels = [queries.new_zeros(_padded(blocks), features)]
        self.counts = [queries.new_zeros(_padded(blocks))]
        self.behind = torch.zeros(blocks, dtype=torch.bool, device=queries.device)
        self._sum_blocks(torch.arange(blocks, device=queries.device))
        self._grow()

    def _grow(self) -> None:
        """The levels above the blocks, up to one of at most ``TOP`` nodes."""
        del self.levels[1:], self.counts[1:]
        while len(self.levels[-1]) > max(TOP, ARITY):
            below, nodes = self.levels[-1], len(self.levels[-1]) // ARITY
            self.levels.append(below.new_zeros(_padded(nodes), below.shape[1]))
            self.counts.append(below.new_zeros(_padded(nodes)))
            self._sum_children(len(self.levels) - 1, torch.arange(nodes, device=below.device))
        top = self.levels[-1]
        self.rounded = top.bfloat16() if top.dtype == torch.float32 and _fast(top) else None

    def _sum_blocks(self, blocks: Int[Tensor, "blocks"]) -> None:
        """Sum the rows of these blocks anew."""
        table, valid = self.levels[0], self.rows.valid
        at_a_time = max(1, HELD // max(table.shape[1], BLOCK * BLOCK))
        if len(blocks) == self._num_blocks:
            return self._sum_in_place(at_a_time)
        for some in blocks.split(at_a_time):
            slots = some[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)
            inside = slots.clamp(max=self.rows.num_rows - 1)
            weight = ((slots < self.rows.num_rows) & valid[inside]).to(table.dtype)
            rows = self.rows.rows(inside.flatten()).to(table.dtype)
            table[some] = self.kernel.sum_features(rows.view(*slots.shape, -1), weight)
            self.counts[0][some] = weight.sum(dim=1)

    def _sum_in_place(self, at_a_time: int) -> None:
        """Sum all blocks anew, their rows read in order without a copy."""
        table, valid = self.levels[0], self.rows.valid
        for first, rows in self.rows.chunks(at_a_time * BLOCK):
            short = -len(rows) % BLOCK  # of the last block
            weight = F.pad(valid[first : first + len(rows)].to(table.dtype), (0, short))
            rows = F.pad(rows, (0, 0, 0, short)) if short else rows
            weight, rows = (
                weight.view(-1, BLOCK),
                rows.to(table.dtype).view(-1, BLOCK, rows.shape[1]),
            )
            some = slice(first // BLOCK, first // BLOCK + len(rows))
            table[some] = self.kernel.sum_features(rows, weight)
            self.counts[0][some] = weight.sum(dim=1)

    def _shift(self, change: RowChange) -> None:
        """Add what is new and subtract what was, the rows of a block together."""
        table = self.levels[0]
        slots, order = change.slots.sort()
        old, new = change.old[order].to(table.dtype), change.new[order].to(table.dtype)
        was, now = (valid[order].to(table.dtype) for valid in (change.was_valid, change.is_valid))
        for blocks, members in groups_of(slots // BLOCK, max(1, HELD // table.shape[1])):
            rows = torch.cat([new[members], old[members]], dim=1)
            weight = torch.cat([now[members], -was[members]], dim=1)
            table[blocks] += self.kernel.sum_features(rows, weight)

    def _count(self, change: RowChange) -> None:
        """Valid rows below each node: exact at every change, also while the sums lag."""
        more = change.is_valid.to(self.counts[0].dtype) - change.was_valid.to(self.counts[0].dtype)
        span = BLOCK
        for counts in self.counts:
            counts.index_add_(0, change.slots // span, more)
            span *= ARITY

    def _sum_children(self, level: int, nodes: Int[Tensor, "nodes"]) -> None:
        below = self.levels[level - 1]
        for some in nodes.split(max(1, HELD // (ARITY * below.shape[1]))):
            self.levels[level][some] = below.view(-1, ARITY, below.shape[1])[some].sum(dim=1)
        self.counts[level][nodes] = self.counts[level - 1].view(-1, ARITY)[nodes].sum(dim=1)


def _fast(table: Tensor) -> bool:
    """Whether this processor multiplies bfloat16 by itself."""
    known = torch.cpu.get_capabilities()
    return table.device.type == "cpu" and bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _padded(nodes: int) -> int:
    return -(-nodes // ARITY) * ARITY
