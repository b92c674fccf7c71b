"""Draws from a softmax over a pool of rows, and how often each row is expected: one pass.

A few queries at a time: their scores become masses in place, these are drawn from, and their
chances added up; no score is worked out twice, and none is kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from negcache.exclusion import Exclusion
from negcache.ops.cpu_chances import chances_of_some, in_base_2, takes
from negcache.ops.mass_table import LogMasses, parts_of, table_of, whole_blocks
from negcache.ops.threads import dealt_out, threads_for
from negcache.score import Score, is_product
from negcache.shapes import Bool, Float, Float64, Int, Tensor


class PoolDraw(NamedTuple):
    """What all queries drew from a pool.

    Args:
        places: of the rows drawn; any row where a query may draw nothing.
        alive: whether it may draw something.
        expected: how often each row is drawn in one draw for every query.
    """

    places: Int[Tensor, "B m"]
    alive: Bool[Tensor, "B"]
    expected: Float64[Tensor, "M"]


@torch.no_grad()
def draw_from_pool(
    queries: Float[Tensor, "B K"],
    rows: Float[Tensor, "M K"],
    weight: Float[Tensor, "M"],
    score: Score,
    exclude: Exclusion,
    noise: Float64[Tensor, "B m 2"],
) -> PoolDraw:
    """By ``softmax(score + weight)`` over the rows that may stand for each query.

    Args:
        weight: -inf: the row is never drawn.
        exclude: the rows that may not stand, by their number.
        noise: a uniform for the block of rows, one for the row inside it.
    """
    pool = _Pool(queries, rows, weight, score, exclude)
    if takes(queries, len(queries) * len(rows)):
        found = _by_compiled_code(pool, noise)
    else:
        found = _by_torch(pool, noise)
    places, alive, expected = zip(*found, strict=True)
    return PoolDraw(torch.cat(places), torch.cat(alive), torch.stack(expected).sum(dim=0))


class _Pool:
    """A pool as queries score it; those of some of them at a time."""

    def __init__(
        self, queries: Tensor, rows: Tensor, weight: Tensor, score: Score, exclude: Exclusion
    ) -> None:
        self.count, self.rows, self.score = len(rows), rows, score
        self.is_product = is_product(score)
        self.queries = queries * score.scale if self.is_product else queries
        nothing = weight.new_full((len(exclude.ids),), -torch.inf)
        none = queries.new_empty(0, self.count)
        self.log_masses = LogMasses(none, weight[None], exclude.offsets, exclude.ids, nothing)

    def parts(self) -> list[slice]:
        return list(parts_of(len(self.queries), whole_blocks(self.count), self.rows.device))

    def logits(self, some: slice, out: Float[Tensor, "b M"]) -> Float[Tensor, "b M"]:
        """Into this memory."""
        if self.is_product:
            return torch.mm(self.queries[some], self.rows.T, out=out)
        return out.copy_(self.score(self.queries[some], self.rows))


def _by_torch(pool: _Pool, noise: Float64[Tensor, "B m 2"]) -> list[PoolDraw]:
    parts, found = pool.parts(), []
    memory = pool.queries.new_empty(parts[0].stop, whole_blocks(pool.count))
    for some in parts:
        masses = memory[: some.stop - some.start]
        logits = pool.logits(some, masses[:, : pool.count])
        offsets = pool.log_masses.offsets[some.start : some.stop + 1]
        table = table_of(pool.log_masses._replace(logits=logits, offsets=offsets), masses)
        places = table.draw(noise[some]).clamp_(max=pool.count - 1)
        expected = table.expected(torch.ones_like(table.total))[: pool.count]
        found.append(PoolDraw(places, table.total > 0, expected))
    return found


def _by_compiled_code(pool: _Pool, noise: Float64[Tensor, "B m 2"]) -> list[PoolDraw]:
    parts, columns = pool.parts(), in_base_2(pool.log_masses)

    def begin() -> Callable[[slice], PoolDraw]:
        memory = pool.queries.new_empty(parts[0].stop, pool.count)

        def work(some: slice) -> PoolDraw:
            logits = pool.logits(some, memory[: some.stop - some.start])
            chances = chances_of_some(columns, logits.numpy(), some)
            return PoolDraw(chances.draw(noise[some]), chances.alive, chances.expected)

        return work

    return dealt_out(parts, threads_for(pool.queries, len(parts)), begin)
