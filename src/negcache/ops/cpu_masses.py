"""Stage one of the exact draw on a CPU: scores of a few rows at a time, summed up by compiled code.

The twin in torch, ``two_stage.mass_of_blocks_``, goes over the scores four times; here it is twice.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch

from negcache.ops.cumulative import LOG2_E
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.threads import dealt_out, threads_for
from negcache.score import is_product
from negcache.shapes import Float, Tensor

HELD = 1 << 19
"""Scores held at a time by a thread: what a core's own cache takes in."""

FEWEST_QUERIES = 16
"""Numbers in a vector register: fewer queries leave it empty."""

FEWEST_SCORES = 1 << 22
"""Where there are fewer, torch does it while the code is being compiled or loaded."""

Part = tuple[int, Tensor]


@torch.no_grad()
def cpu_masses(rows: ScoredRows) -> Float[Tensor, "B blocks"] | None:
    """Log-masses of the blocks of these rows.

    Returns:
        None elsewhere than on a CPU, without numba, where there are few scores, and where the score
        is another than a scaled inner product of float32 queries.
    """
    queries = rows.queries
    if not (
        queries.device.type == "cpu"
        and queries.dtype == torch.float32
        and len(queries) >= FEWEST_QUERIES
        and len(queries) * rows.num_rows >= FEWEST_SCORES
        and is_product(rows.score)
        and has_numba()
    ):
        return None
    size = BLOCK * max(1, HELD // (BLOCK * len(queries)))
    threads = threads_for(queries, -(-rows.num_rows // size))
    parts = dealt_out(rows.chunks(size), threads, _Worker(rows, size).begin)
    return torch.cat(parts).div_(LOG2_E).T.contiguous()


class _Worker:
    """What threads share of the work on the chunks of some rows.

    Args:
        rows: all of them, and the queries.
        size: rows of a chunk, at most.
    """

    def __init__(self, rows: ScoredRows, size: int) -> None:
        scaled = rows.queries * (rows.score.scale * LOG2_E)
        self.rows, self.size, self.columns = rows, size, scaled.T.contiguous()
        self.all_valid = bool(rows.valid.all())

    def begin(self) -> Callable[[Part], Float[Tensor, "blocks B"]]:
        """For one thread, with memory of its own."""
        from negcache.compiled.block_masses import masses_of_scores

        memory = self.rows.queries.new_empty(self.size, self.columns.shape[1])

        def sum_up(part: Part) -> Tensor:
            scores = self._scores(*part, memory)
            found = memory.new_empty(len(scores) // BLOCK, scores.shape[1])
            masses_of_scores(scores.numpy(), found.numpy())
            return found

        return sum_up

    def _scores(
        self, first: int, chunk: Float[Tensor, "c D"], memory: Float[Tensor, "size B"]
    ) -> Float[Tensor, "C B"]:
        """In base 2, of whole blocks of rows; -inf where one may not stand."""
        rows, last, whole = self.rows, first + len(chunk), -(-len(chunk) // BLOCK) * BLOCK
        scores = torch.mm(chunk.to(self.columns.dtype), self.columns, out=memory[: len(chunk)])
        if rows.log_weights is not None:
            scores.add_(rows.log_weights[first:last, None], alpha=LOG2_E)
        if not self.all_valid:
            scores.masked_fill_(~rows.valid[first:last, None], -torch.inf)
        queries, places = rows.exclude.between(first, last)
        if len(queries):
            scores[places, queries] = -torch.inf
        if len(chunk) < whole:
            memory[len(chunk) : whole] = -torch.inf
        return memory[:whole]


@cache
def has_numba() -> bool:
    return find_spec("numba") is not None
