"""The softmax over all classes of a table, a few rows and classes at a time: never [B, N].

Only ``log_probs`` holds [B, N]: it is what was asked for.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from negcache.estimators import softmax_loss
from negcache.indexes import top_k
from negcache.messages import Request
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
    queries: Float[Tensor, "B D"], table: LiveTable, score: Score, without: int | None
) -> Float[Tensor, "B N"]:
    """Log-probabilities of all classes, -inf for the one that the softmax is ``without``."""
    logits = queries.new_full((len(queries), len(table)), -torch.inf)
    for first, rows in _classes(table, without):
        logits[:, first : first + len(rows)] = score(queries, rows)
    return F.log_softmax(logits, dim=1)


@torch.no_grad()
def best_classes(
    queries: Float[Tensor, "B D"], table: LiveTable, score: Score, k: int, without: int | None
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """Logits and numbers of the k best classes of each row, best first."""
    parts = [top_k(some, _classes(table, without), score, k) for some in queries.split(ROWS)]
    scores, ids = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(ids)


def _exact_losses(request: Request, table: LiveTable) -> Tensor:
    targets = request.positives.view(len(request.queries), -1)
    log_z = request.queries.new_full((len(targets),), -torch.inf)
    for _, logits in masked_chunks(scored_rows(request, table)):
        log_z = torch.logaddexp(log_z, mass_of_blocks_(logits).logsumexp(dim=1))
    rows = table.rows(targets.clamp_min(0).flatten()).view(*targets.shape, -1)
    losses = softmax_loss(request.score.paired(request.queries, rows), log_z[:, None])
    return mean_of_positives(losses, request.positives)


def _classes(table: LiveTable, without: int | None) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows with the number of their first; cut in two at the row that is left out."""
    for first, rows in table.chunks(CLASSES):
        if without is None or not first <= without < first + len(rows):
            yield first, rows
            continue
        cut = without - first
        for start, part in ((first, rows[:cut]), (without + 1, rows[cut + 1 :])):
            if len(part):
                yield start, part
