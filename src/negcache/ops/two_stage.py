"""Exact draws from a softmax over rows, without a [B, N] tensor.

Stage one walks the rows in chunks and keeps one number per query and *block* of ``BLOCK`` rows: the
log of the block's mass. Stage two draws a block by its mass, then a row inside it by its own score.
P(block) P(row | block) is the softmax over all rows, so the law is exact; the noise is two float64
uniforms a draw, far from the saturation of float32 Gumbel noise (at 10^7 rows 45 % of the true
maxima would be out of its reach). The grid of blocks is fixed by row number: a shard of a store
that owns whole blocks draws what the whole store would draw.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch.nn import functional as F

from negcache.ops.cpu_masses import cpu_masses
from negcache.ops.cumulative import LOG2_E, invert_cdf
from negcache.ops.drawn_blocks import BLOCK, scores_of_blocks, walks
from negcache.ops.gpu_masses import gpu_masses
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.threads import dealt_out, threads_for
from negcache.shapes import Float, Int, Tensor

CHUNK_SCORES = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Scores held at a time in stage one: what a core's own cache takes in, or a GPU is busy with."""

AT_ONCE = 1 << 14
"""Drawn blocks whose scores stage two holds at a time: a bound on its memory."""

GATHERED_AT_ONCE = {"cpu": 1 << 8, "cuda": AT_ONCE}
"""The same, where their rows are gathered for each: enough for a thread."""

MASSES = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Masses of blocks that are added up at a time: what a core's own cache takes in."""

CHOSEN = 1 << 18
"""Scores that stage two chooses among at a time: what a core's own cache takes in."""

GATHERED = 4
"""Rows of a block that are scored in less than the time of one gathered row."""

ALL_SCORES = 1 << 22
"""Scores or masses held at a time where those of all rows are wanted: a bound on memory."""


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
        parts = self.log_masses.split(_queries_at_once(self.log_masses))
        threads = threads_for(self.log_masses, len(parts))
        return torch.cat(dealt_out(parts, threads, lambda: partial(torch.logsumexp, dim=1)))


class Found(NamedTuple):
    """Drawn rows and their scores.

    Args:
        slots: [B, m]; arbitrary where the query has no row left (its mass is 0).
        logits: [B, m] scores of the drawn rows.
    """

    slots: Int[Tensor, "B m"]
    logits: Float[Tensor, "B m"]


class Masking:
    """Scores every query against consecutive rows; -inf where a row may not stand.

    Args:
        rows: all of them.
    """

    def __init__(self, rows: ScoredRows) -> None:
        self.rows, self.all_valid = rows, bool(rows.valid.all())
        budget = CHUNK_SCORES.get(rows.queries.device.type, CHUNK_SCORES["cpu"])
        self.size = BLOCK * max(1, budget // (BLOCK * max(len(rows.queries), 1)))

    def memory(self) -> Float[Tensor, "scores"]:
        """For the scores of a chunk."""
        return self.rows.queries.new_empty(len(self.rows.queries) * self.size)

    def scores(
        self, first: int, chunk: Float[Tensor, "c D"], memory: Float[Tensor, "scores"]
    ) -> Float[Tensor, "B c"]:
        """Of at most ``size`` rows, in that memory."""
        rows, last = self.rows, first + len(chunk)
        out = memory[: len(rows.queries) * len(chunk)].view(-1, len(chunk))
        logits = rows.weighted(rows.score(rows.queries, chunk, out=out), slice(first, last))
        if not self.all_valid:
            logits.masked_fill_(~rows.valid[first:last], -torch.inf)
        logits[rows.exclude.between(first, last)] = -torch.inf
        return logits


def masked_chunks(rows: ScoredRows) -> Iterator[tuple[int, Float[Tensor, "B c"]]]:
    """Scores of every query against consecutive rows; -inf where a row may not stand.

    A chunk's memory is used again for the next one, and never for gradients.
    """
    masking = Masking(rows)
    memory = masking.memory()
    for first, chunk in rows.chunks(masking.size):
        yield first, masking.scores(first, chunk, memory)


@torch.no_grad()
def scan(rows: ScoredRows, per_query: int = 0) -> Scan:
    """Stage one: one pass over the rows.

    Args:
        per_query: draws per query that stage two will make; 0: none, or few.
    """
    few = len(rows.queries) * rows.num_rows <= ALL_SCORES
    if few and scores_all(per_query, rows.num_rows):
        kept = torch.cat([each.clone() for _, each in masked_chunks(rows)], dim=1)
        return Scan(mass_of_blocks_(kept.clone()), kept)
    if (found := masses_at_once(rows)) is not None:
        return Scan(found, None)
    return Scan(torch.cat(_masses(rows), dim=1), None)


def _masses(rows: ScoredRows) -> list[Float[Tensor, "B blocks"]]:
    """Of every chunk; on a CPU, each chunk by one of torch's threads."""
    masking = Masking(rows)

    def worker() -> Callable[[tuple[int, Tensor]], Tensor]:
        memory = masking.memory()
        return lambda piece: mass_of_blocks_(masking.scores(*piece, memory))

    threads = threads_for(rows.queries, -(-rows.num_rows // masking.size))
    return dealt_out(rows.chunks(masking.size), threads, worker)


def masses_at_once(rows: ScoredRows) -> Float[Tensor, "B blocks"] | None:
    """The log-masses by a faster way than torch's: of the rows, or of their device.

    None: there is none.
    """
    for way in (rows.masses, gpu_masses, cpu_masses):
        if way is not None and (found := way(rows)) is not None:
            return found
    return None


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
    score = partial(scores_of_blocks, rows)
    if scanned.logits is not None:
        score = partial(_kept, scanned.logits)
    blocks = _blocks(scanned.log_masses, noise[..., 0]).flatten()
    queries = torch.arange(num_queries, device=blocks.device).repeat_interleave(per_query)
    gathered = GATHERED_AT_ONCE.get(blocks.device.type, AT_ONCE)
    size = AT_ONCE if walks(len(blocks), rows.num_rows) else gathered
    pieces = (queries.split(size), blocks.split(size), noise[..., 1].flatten().split(size))
    threads = threads_for(blocks, len(pieces[0]))
    parts = dealt_out(
        zip(*pieces, strict=True),
        threads,
        lambda: lambda piece: _within(score(*piece[:2]), *piece[1:]),
    )
    slots, logits = (torch.cat(c).view(num_queries, per_query) for c in zip(*parts, strict=True))
    return Found(slots.clamp_(max=rows.num_rows - 1), logits)


def _blocks(
    log_masses: Float[Tensor, "B blocks"], noise: Float[Tensor, "B m"]
) -> Int[Tensor, "B m"]:
    """A block for every query and draw, by its mass."""
    size = _queries_at_once(log_masses)
    masses, noises = log_masses.split(size), noise.contiguous().split(size)
    pieces = zip(masses, noises, strict=True)
    threads = threads_for(log_masses, len(masses))
    return torch.cat(dealt_out(pieces, threads, lambda: lambda piece: invert_cdf(*piece)))


def _queries_at_once(log_masses: Float[Tensor, "B blocks"]) -> int:
    held = MASSES.get(log_masses.device.type, MASSES["cpu"])
    return max(1, held // max(1, log_masses.shape[1]))


def _kept(
    logits: Float[Tensor, "B S"], queries: Int[Tensor, "n"], blocks: Int[Tensor, "n"]
) -> Float[Tensor, "n BLOCK"]:
    """What ``scores_of_blocks`` gives, from the scores of all rows."""
    short = -logits.shape[1] % BLOCK
    return F.pad(logits, (0, short), value=-torch.inf).unflatten(1, (-1, BLOCK))[queries, blocks]


def _within(
    logits: Float[Tensor, "n BLOCK"], blocks: Int[Tensor, "n"], noise: Float[Tensor, "n"]
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """A row of each block, by its score among them."""
    size = CHOSEN // BLOCK
    parts = zip(logits.split(size), noise[:, None].split(size), strict=True)
    place = torch.cat([invert_cdf(some, noises) for some, noises in parts])
    return blocks * BLOCK + place.squeeze(1), logits.gather(1, place).squeeze(1)


def scores_all(per_query: int, num_rows: int) -> bool:
    """Whether stage two wants the scores of all rows: cheaper than the rows of so many blocks."""
    return per_query * BLOCK * GATHERED >= num_rows


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
    log_masses = scanned.log_masses.clone()
    for some, where in zip(queries.split(AT_ONCE), blocks.split(AT_ONCE), strict=True):
        log_masses[some, where] = torch.logsumexp(scores_of_blocks(rows, some, where), 1)
    return rows, Scan(log_masses, None)
