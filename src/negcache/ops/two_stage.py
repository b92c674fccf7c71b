"""Exact draws from a softmax over rows, without a [B, N] tensor.

Stage one walks the rows in chunks and keeps one number per query and *block* of ``BLOCK`` rows: the
log of the block's mass. Stage two draws a block by its mass, then a row inside it by its own score.
P(block) P(row | block) is the softmax over all rows, so the law is exact; the noise is two float64
uniforms a draw, far from the saturation of float32 Gumbel noise (at 10^7 rows 45 % of the true
maxima would be out of its reach). The grid of blocks is fixed by row number: a shard of a store
that owns whole blocks draws what the whole store would draw.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional as F

from negcache.exclusion import Exclusion
from negcache.ops.scored_rows import ScoredRows
from negcache.shapes import Float, Float64, Int, Tensor

BLOCK = 128
"""Rows of a block. Part of the law's noise grid: changing it changes which items a seed draws."""

CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Scores held at a time in stage one: what a core's own cache takes in, or a GPU is busy with."""

GATHER = 1 << 16
"""Rows that stage two gathers at a time: a bound on its memory."""

GATHERED = 4
"""Rows of a block that are scored in less than the time of one gathered row."""

ALL_SCORES = 1 << 22
"""Scores or masses held at a time where those of all rows are wanted: a bound on memory."""

LOG2_E = math.log2(math.e)


class Scan(NamedTuple):
    """What one pass over the rows leaves behind.

    Args:
        log_masses: logsumexp of the scores in each block of ``BLOCK`` rows, float32 at least.
        logits: the scores themselves, where stage two will want those of most rows and they are
            few; else None.
    """

    log_masses: Float[Tensor, "B blocks"]
    logits: Float[Tensor, "B S"] | None

    @property
    def log_mass(self) -> Float[Tensor, "B"]:
        step = max(1, ALL_SCORES // max(1, self.log_masses.shape[1]))
        return torch.cat([each.logsumexp(dim=1) for each in self.log_masses.split(step)])


class Found(NamedTuple):
    """Drawn rows and their scores.

    Args:
        slots: [B, m]; arbitrary where the query has no row left (its mass is 0).
        logits: [B, m] scores of the drawn rows.
    """

    slots: Int[Tensor, "B m"]
    logits: Float[Tensor, "B m"]


def masked_chunks(rows: ScoredRows) -> Iterator[tuple[int, Float[Tensor, "B c"]]]:
    """Scores of every query against consecutive rows; -inf where a row may not stand.

    A chunk's memory is used again for the next one, and never for gradients.
    """
    queries, order = rows.queries, rows.exclude.ids.argsort()
    excluded, whose = rows.exclude.ids[order], rows.exclude.rows[order]
    all_valid = bool(rows.valid.all())
    budget = CHUNK_SCORES.get(queries.device.type, CHUNK_SCORES["cpu"])
    blocks = max(1, budget // (BLOCK * max(len(queries), 1)))
    memory = queries.new_empty(len(queries) * blocks * BLOCK)
    for first, chunk in rows.chunks(blocks * BLOCK):
        out = memory[: len(queries) * len(chunk)].view(-1, len(chunk))
        last = first + len(chunk)
        logits = rows.weighted(rows.score(queries, chunk, out=out), slice(first, last))
        if not all_valid:
            logits.masked_fill_(~rows.valid[first:last], -torch.inf)
        ends = torch.tensor([first, last], device=excluded.device)
        lo, hi = torch.searchsorted(excluded, ends).tolist()
        logits[whose[lo:hi], excluded[lo:hi] - first] = -torch.inf
        yield first, logits


@torch.no_grad()
def scan(rows: ScoredRows, per_query: int = 0) -> Scan:
    """Stage one: one pass over the rows.

    Args:
        per_query: draws per query that stage two will make; 0: none, or few.
    """
    few = len(rows.queries) * rows.num_rows <= ALL_SCORES
    keep = few and scores_all(per_query, rows.num_rows)
    if not keep and rows.masses is not None and (found := rows.masses(rows)) is not None:
        return Scan(found, None)
    masses, kept = [], []
    for _, logits in masked_chunks(rows):
        if keep:
            kept.append(logits.clone())
        masses.append(mass_of_blocks_(logits))
    return Scan(torch.cat(masses, dim=1), torch.cat(kept, dim=1) if keep else None)


def mass_of_blocks_(logits: Float[Tensor, "B c"]) -> Float[Tensor, "B blocks"]:
    """The log-masses of one chunk's blocks; the chunk's memory is spent."""
    short = -logits.shape[1] % BLOCK
    if short:  # the last chunk: whole blocks only
        logits = F.pad(logits, (0, short), value=-torch.inf)
    return _log_mass_(logits.unflatten(1, (-1, BLOCK)))


def _log_mass_(logits: Float[Tensor, "B blocks BLOCK"]) -> Float[Tensor, "B blocks"]:
    """``logsumexp(logits, 2)`` in place of its input; in base 2, which CPUs do 2.6 x faster."""
    floor = torch.finfo(logits.dtype).min / 2  # a block without mass: -inf - floor is still -inf
    peak = logits.amax(dim=2, keepdim=True).clamp_min_(floor)
    relative = torch.add(peak * -LOG2_E, logits, alpha=LOG2_E, out=logits)
    mass = relative.exp2_().sum(dim=2)
    return mass.log_().add_(peak.squeeze(2))


@torch.no_grad()
def draw_rows(rows: ScoredRows, scanned: Scan, noise: Float[Tensor, "B m 2"]) -> Found:
    """Stage two: draw a block, then a row of it, for every query and draw."""
    num_queries, per_query = noise.shape[:2]
    if not per_query:
        nothing = rows.queries.new_full((num_queries, per_query), -torch.inf)
        return Found(torch.zeros_like(nothing, dtype=torch.long), nothing)
    step = max(1, ALL_SCORES // scanned.log_masses.shape[1])
    parts = zip(scanned.log_masses.split(step), noise[..., 0].split(step), strict=True)
    blocks = torch.cat([invert_cdf(masses, some.contiguous()) for masses, some in parts])
    if scanned.logits is not None:
        return _draw_from(scanned.logits, blocks, noise[..., 1])
    if scores_all(per_query, rows.num_rows):
        return _draw_from_all(rows, blocks, noise[..., 1])
    blocks = blocks.flatten()
    queries = torch.arange(num_queries, device=blocks.device).repeat_interleave(per_query)
    parts = []
    for some, where, noises in zip(
        queries.split(GATHER // BLOCK),
        blocks.split(GATHER // BLOCK),
        noise[..., 1].flatten().split(GATHER // BLOCK),
        strict=True,
    ):
        slots, logits = _score_blocks(rows, some, where)
        place = invert_cdf(logits, noises[:, None])
        parts.append((slots.gather(1, place), logits.gather(1, place)))
    slots, logits = (torch.cat(c).view(num_queries, per_query) for c in zip(*parts, strict=True))
    return Found(slots, logits)


def scores_all(per_query: int, num_rows: int) -> bool:
    """Whether stage two wants the scores of all rows: cheaper than the rows of so many blocks."""
    return per_query * BLOCK * GATHERED >= num_rows


def _draw_from_all(
    rows: ScoredRows, blocks: Int[Tensor, "B m"], noise: Float[Tensor, "B m"]
) -> Found:
    """Stage two from the scores of all rows, some queries at a time."""
    parts, at_a_time = [], max(1, ALL_SCORES // rows.num_rows)
    for first in range(0, len(blocks), at_a_time):
        last = min(first + at_a_time, len(blocks))
        chunks = [logits.clone() for _, logits in masked_chunks(rows.of_queries(first, last))]
        found = _draw_from(torch.cat(chunks, dim=1), blocks[first:last], noise[first:last])
        parts.append(found)
    return Found(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _draw_from(
    logits: Float[Tensor, "B S"], blocks: Int[Tensor, "B m"], noise: Float[Tensor, "B m"]
) -> Found:
    """A row of each drawn block, from the scores of all rows."""
    num_rows = logits.shape[1]
    logits = F.pad(logits, (0, -num_rows % BLOCK), value=-torch.inf)
    every, width = logits.unflatten(1, (-1, BLOCK)).flatten(0, 1), logits.shape[1] // BLOCK
    start = width * torch.arange(len(blocks), device=blocks.device)[:, None]
    parts = []
    for where, noises in zip(
        (start + blocks).flatten().split(GATHER // BLOCK),
        noise.flatten().split(GATHER // BLOCK),
        strict=True,
    ):
        some = every[where]
        place = invert_cdf(some, noises[:, None])
        slots = (where[:, None] % width * BLOCK + place).clamp_(max=num_rows - 1)
        parts.append((slots, some.gather(1, place)))
    return Found(*(torch.cat(column).view(blocks.shape) for column in zip(*parts, strict=True)))


@torch.no_grad()
def take_away(
    rows: ScoredRows, scanned: Scan, slots: Int[Tensor, "B h"]
) -> tuple[ScoredRows, Scan]:
    """The rows and their block masses once each query's ``slots`` may no longer be drawn.

    Only the blocks of these rows are scored anew.

    Args:
        slots: -1 for a row that is none of these.
    """
    queries, columns = (slots >= 0).nonzero(as_tuple=True)
    if not len(queries):
        return rows, scanned._replace(logits=None)
    rows, blocks = rows.without(slots), slots[queries, columns] // BLOCK
    log_masses, size = scanned.log_masses.clone(), GATHER // BLOCK
    for some, where in zip(queries.split(size), blocks.split(size), strict=True):
        log_masses[some, where] = torch.logsumexp(_score_blocks(rows, some, where)[1], 1)
    return rows, Scan(log_masses, None)


def _score_blocks(
    rows: ScoredRows, queries: Tensor, blocks: Tensor
) -> tuple[Int[Tensor, "n BLOCK"], Float[Tensor, "n BLOCK"]]:
    """The slots of ``blocks[i]`` and their scores for query ``queries[i]``; -inf where masked."""
    slots = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)
    inside = slots.clamp(max=rows.num_rows - 1)
    table = rows.rows(inside.flatten()).view(*slots.shape, -1)
    logits = rows.weighted(rows.score.paired(rows.queries[queries], table), inside)
    logits.masked_fill_((slots >= rows.num_rows) | ~rows.valid[inside], -torch.inf)
    _mask_excluded(logits, rows.exclude, queries, blocks)
    return inside, logits


def _mask_excluded(
    logits: Float[Tensor, "n BLOCK"], exclude: Exclusion, queries: Tensor, blocks: Tensor
) -> None:
    """Set to -inf, in place, what query ``queries[i]`` may not draw from block ``blocks[i]``."""
    if not len(exclude.ids):
        return
    span = int(torch.maximum(blocks.max(), exclude.ids.max() // BLOCK)) + 1
    listed = exclude.rows * span + exclude.ids // BLOCK  # ascending, as rows and their ids are
    wanted = queries * span + blocks
    first = torch.searchsorted(listed, wanted)
    counts = torch.searchsorted(listed, wanted, right=True) - first
    draws = torch.repeat_interleave(counts)
    ends = counts.cumsum(0)
    entries = torch.arange(len(draws), device=draws.device) - (ends - counts - first)[draws]
    logits[draws, exclude.ids[entries] % BLOCK] = -torch.inf


class Cumulative(NamedTuple):
    """Masses of each row added up, in units of its largest, which is ``exp(log_unit)``."""

    sums: Float64[Tensor, "B n"]
    log_unit: Float[Tensor, "B"]

    @property
    def log_total(self) -> Float64[Tensor, "B"]:
        """log of each row's mass."""
        return self.sums[:, -1].log() + self.log_unit


def add_up(log_masses: Float[Tensor, "B n"]) -> Cumulative:
    """Cumulative masses, in float64."""
    peak = log_masses.amax(dim=1, keepdim=True).clamp_min(torch.finfo(log_masses.dtype).min)
    return Cumulative((log_masses - peak).double().exp_().cumsum_(dim=1), peak.squeeze(1))


def invert(
    cumulative: Float64[Tensor, "B n"], uniforms: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """The first entry whose cumulative mass passes u times the total.

    Entries of mass 0 are never returned while the row has any mass.
    """
    total = cumulative[:, -1:].contiguous()
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    place = torch.searchsorted(cumulative, target.contiguous(), right=True)
    return place.clamp_(max=cumulative.shape[1] - 1)


def invert_cdf(
    log_masses: Float[Tensor, "B n"], uniforms: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """As ``invert``, from the masses themselves."""
    return invert(add_up(log_masses).sums, uniforms)
