"""Queries and the rows that they are scored against, as tensors and functions of tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from negcache.exclusion import Exclusion
from negcache.score import Score
from negcache.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class ScoredRows:
    """What a draw reads: rows in numbered slots, and which may not stand for which query.

    Args:
        queries: as the rows are scored against them.
        score: (queries, rows) -> logits.
        num_rows: S.
        valid: rows that exist; others are never drawn.
        exclude: slots that may not stand for each query.
        chunks: size -> consecutive blocks of rows with the slot of their first row; each is there
            as long as it is held.
        rows: slots -> rows.
        log_weights: added to the score of each row; None: nothing.
        masses: log-masses of the blocks of these rows in less time than all their scores take;
            None, or it says so: there is no such way.

    Examples:
        >>> from negcache.score import DotScore
        >>> queries, table = torch.eye(2), torch.eye(3)[:, :2]
        >>> rows = ScoredRows.of(queries, table, DotScore(1.0))
        >>> rows.logits(torch.tensor([2, 0])).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """

    queries: Float[Tensor, "B D"]
    score: Score
    num_rows: int
    valid: Bool[Tensor, "S"]
    exclude: Exclusion
    chunks: Callable[[int], Iterator[tuple[int, Float[Tensor, "c D"]]]]
    rows: Callable[[Int[Tensor, "M"]], Float[Tensor, "M D"]]
    log_weights: Float[Tensor, "S"] | None = None
    masses: "Callable[[ScoredRows], Float[Tensor, 'B blocks'] | None] | None" = None

    @staticmethod
    def of(
        queries: Float[Tensor, "B D"],
        table: Float[Tensor, "S D"],
        score: Score,
        exclude: Exclusion | None = None,
    ) -> "ScoredRows":
        """Every row of a plain table."""

        def chunks(size: int) -> Iterator[tuple[int, Tensor]]:
            return ((i, table[i : i + size]) for i in range(0, len(table), size))

        none = torch.zeros(0, dtype=torch.long, device=table.device)
        exclude = Exclusion.from_pairs(none, none, len(queries)) if exclude is None else exclude
        valid = torch.ones(len(table), dtype=torch.bool, device=table.device)
        return ScoredRows(
            queries, score, len(table), valid, exclude, chunks, lambda slots: table[slots]
        )

    def under(self, score: Score) -> "ScoredRows":
        """The same rows under another score."""
        return replace(self, score=score)

    def logits(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "B M"]:
        """Every query against these rows; nothing is masked."""
        return self.weighted(self.score(self.queries, self.rows(slots)).detach(), slots)

    def weighted(
        self, logits: Float[Tensor, "n c"], slots: Int[Tensor, "*n c"] | slice
    ) -> Float[Tensor, "n c"]:
        """Scores of these rows with their weights, in place."""
        return logits if self.log_weights is None else logits.add_(self.log_weights[slots])

    def bias(self, slots: slice) -> Float[Tensor, "c"]:
        """What is added to the scores of these rows: their weights, -inf where none may stand."""
        valid, weights = self.valid[slots], self.log_weights
        bias = self.queries.new_zeros(len(valid)) if weights is None else weights[slots]
        return bias.masked_fill(~valid, -torch.inf)

    def of_queries(self, start: int, stop: int) -> "ScoredRows":
        """The same rows for queries ``start`` to ``stop``."""
        exclude = self.exclude.slice(start, stop)
        return replace(self, queries=self.queries[start:stop], exclude=exclude)

    def without(self, slots: Int[Tensor, "B h"]) -> "ScoredRows":
        """The same once each query's ``slots`` may no longer stand for it; -1: none."""
        queries, columns = (slots >= 0).nonzero(as_tuple=True)
        return replace(self, exclude=self.exclude.and_also(queries, slots[queries, columns]))
