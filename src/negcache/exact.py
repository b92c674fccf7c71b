"""The softmax over all classes of a table, a few rows and classes at a time: never [B, N].

Only ``log_probs`` holds [B, N]: it is what was asked for. Of a table that is dealt out each process
reads its share for the queries of all.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from negcache.class_vectors import row_here
from negcache.errors import InputError
from negcache.estimators import softmax_loss
from negcache.indexes import top_k
from negcache.messages import Request, in_rows
from negcache.ops.shards import Masses, best_of_all, rows_of_each
from negcache.ops.two_stage import masked_chunks, mass_of_blocks_
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor
from negcache.step import mean_of_positives
from negcache.stores import LiveTable
from negcache.stores.reading import scored_rows

CLASSES = 8192
"""Classes that are scored at a time where all are listed."""

ROWS = 2048
"""Rows of a batch that are scored at a time: a bound on memory; each time reads the whole table."""


@torch.no_grad()
def exact_losses(request: Request, table: LiveTable) -> Float[Tensor, "B"]:
    """-log p+ of each row over all classes that it may choose from, its own targets among them."""
    starts = range(0, len(request.queries), ROWS)
    parts = [_exact_losses(request.slice(first, first + ROWS), table) for first in starts]
    return torch.cat(parts)


@torch.no_grad()
def log_probs(
    queries: Float[Tensor, "B D"],
    table: LiveTable,
    score: Score,
    without: int | None,
    counts: list[int],
) -> Float[Tensor, "B N"]:
    """Log-probabilities of all classes, -inf for the one that the softmax is ``without``.

    Args:
        counts: queries of every process that holds a share of the table.
    """
    mesh, found = table.shard.mesh, queries
    rows = rows_of_each(len(table), mesh.size) if mesh.size > 1 else None
    for rank, some in enumerate(mesh.gather(queries, counts).split(counts)):
        logits = some.new_full((len(some), table.num_rows), -torch.inf)
        for first, block in _classes(table, without):
            logits[:, first : first + len(block)] = score(some, block)
        columns = mesh.gather(logits.T, rows)  # of each process' classes, for the one that asks
        found = columns.T.contiguous() if rank == mesh.rank else found
    return F.log_softmax(found, dim=1)


@torch.no_grad()
def best_classes(
    queries: Float[Tensor, "B D"],
    table: LiveTable,
    score: Score,
    k: int,
    without: int | None,
    counts: list[int],
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Logits and numbers of the k best classes of each row, best first.

    Args:
        counts: queries of every process that holds a share of the table.
    """
    mesh, wanted = table.shard.mesh, len(table) - (without is not None)
    if k > wanted:
        raise InputError(
            f"k of at most the {wanted} items searched", f"k = {k}", "ask for fewer items"
        )
    here = table.num_rows - (row_here(table.shard, without) is not None)
    parts = []
    for some in mesh.gather(queries, counts).split(ROWS):
        if here:
            scores, slots = top_k(some, _classes(table, without), score, min(k, here))
        else:  # the padding alone
            scores, slots = some.new_empty(len(some), 0), table.plan().new_empty(len(some), 0)
        parts.append(best_of_all(mesh, table.ids(slots), scores, k))
    mine = sum(counts[: mesh.rank])
    ids, scores = (torch.cat(each)[mine : mine + len(queries)] for each in zip(*parts, strict=True))
    return scores, ids


def _exact_losses(request: Request, table: LiveTable) -> Tensor:
    targets, mesh = in_rows(request.positives), table.shard.mesh
    log_z = request.queries.new_full((len(targets),), -torch.inf)
    for _, logits in masked_chunks(scored_rows(request, table)):
        log_z = torch.logaddexp(log_z, mass_of_blocks_(logits).logsumexp(dim=1))
    log_z = Masses(mesh, log_z).log_total
    slots = table.slots(targets.clamp_min(0))
    rows = table.rows(slots.clamp_min(0).flatten()).view(*targets.shape, -1)
    scores = mesh.from_owners(request.score.paired(request.queries, rows), slots >= 0)
    return mean_of_positives(softmax_loss(scores, log_z[:, None]), request.positives)


def _classes(table: LiveTable, without: int | None) -> Iterator[tuple[int, Tensor]]:
    """Blocks of the rows here with the number of their first; cut in two at the one left out."""
    hole = row_here(table.shard, without)
    for first, rows in table.chunks(CLASSES):
        if hole is None or not first <= hole < first + len(rows):
            yield first, rows
            continue
        cut = hole - first
        for start, part in ((first, rows[:cut]), (hole + 1, rows[cut + 1 :])):
            if len(part):
                yield start, part
