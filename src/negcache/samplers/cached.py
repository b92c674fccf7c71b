"""The negative cache: draws from the softmax over cached embeddings, exactly."""

import math
from dataclasses import replace

import torch

from negcache.errors import InputError
from negcache.functional.draws import use_columns
from negcache.functional.two_stage import cell_log_masses, draw_from_cells
from negcache.functional.views import CellView, some_cells, within
from negcache.protocols import Cache, Draw, Law, Request, Rows
from negcache.score import Tempered
from negcache.shapes import Float, Int, Tensor


class CachedSoftmax:
    """Independent draws for each query, ``q_b(y) = exp(s~_by) / Z~_b-`` over the cached rows.

    On a fresh cache one draw gives an unbiased softmax gradient, and any number the exact loss.
    A draw costs one pass of scores over the cache; nothing of size [B, N] is held.
    Source: Lindgren et al., NeurIPS 2021, with known positives excluded by id.

    Args:
        cache: the rows drawn from; the training step keeps it up to date.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        power: draw from the softmax of ``power * s~``; below 1 flatter. Other than 1 it needs the
            ``corrected`` estimator, since the pinned one takes the partition from the law.
        scored: share of the cache that a step scores, drawn anew each step in cells of 128 rows;
            weights make up for it, and a step costs that much less.
    """

    has_density = True

    def __init__(
        self, cache: Cache, num_negatives: int, *, power: float = 1.0, scored: float = 1.0
    ) -> None:
        if not 1 <= num_negatives <= cache.num_items:
            raise InputError(
                f"num_negatives between 1 and the {cache.num_items} cached items",
                f"{num_negatives}",
                "draw fewer, or use FullSoftmax",
            )
        if not power > 0 or not 0 < scored <= 1:
            raise InputError(
                "power > 0 and scored above 0 and at most 1",
                f"power {power}, scored {scored}",
                "1 is the plain negative cache for both",
            )
        self.cache, self.num_negatives = cache, num_negatives
        self.power, self.scored = power, scored

    @property
    def coverage(self) -> float:
        if self.scored == 1:
            return self.cache.coverage
        return CellView(self.cache, some_cells(self.cache, self.scored, torch.Generator())).coverage

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        cells = some_cells(self.cache, self.scored, generator) if self.scored < 1 else None
        rows = self._rows(cells)
        inside = self._asked(request, rows)
        masses = cell_log_masses(inside, rows)
        log_norm = torch.logsumexp(masses, dim=1)
        found = draw_from_cells(
            inside, rows, masses, request.uniforms(generator, self.num_negatives, 2)
        )
        dead = (log_norm == -torch.inf)[:, None]
        log_z = log_norm - math.log(rows.coverage)
        log_share = torch.full_like(found.logits, -math.log(self.num_negatives))
        weight = (log_share + log_z[:, None] - found.logits).masked_fill(dead, -torch.inf)
        own = (log_z, log_share) if self.power == 1 else (None, None)
        return use_columns(rows.ids(found.slots), weight, *own, Law(log_norm, cells))

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """``power s~_by`` less the log of its sum; a pass over the cache unless ``law`` is given.

        Raises:
            InputError: a fraction of the cache is scored and ``law`` does not say which.
        """
        if law is None and self.scored < 1:
            raise InputError(
                "the law of a draw", "law=None", "pass draw.law: the scored cells differ by step"
            )
        rows = self._rows(law.scored if law is not None else None)
        inside = self._asked(request, rows)
        log_norm = law.log_norm if law is not None else None
        if log_norm is None:
            log_norm = torch.logsumexp(cell_log_masses(inside, rows), dim=1)
        slots = rows.slots(ids)
        held = slots.clamp_min(0)
        logits = inside.score(request.queries, rows.rows(held)).detach()
        barred = request.exclude.mask(ids) | (slots < 0) | ~rows.valid[held]
        return (logits - log_norm[:, None]).masked_fill(barred, -torch.inf)

    def _rows(self, cells: Tensor | None) -> Rows:
        return self.cache if cells is None else CellView(self.cache, cells)

    def _asked(self, request: Request, rows: Rows) -> Request:
        """The request in slots, under the score that is drawn from."""
        inside = within(request, rows)
        if self.power == 1:
            return inside
        return replace(inside, score=Tempered(request.score, self.power))
