"""The loss a user calls, and one whole training step of sampled softmax, top to bottom.

draw -> encode what was drawn -> loss -> (caller: backward) -> remember -> (caller: optimizer
step) -> refresh the stalest rows with the new weights -> one step has passed
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from negcache import distributed
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.draws import given
from negcache.functional.estimators import corrected, softmax_loss
from negcache.protocols import (
    Cache,
    Corpus,
    Draw,
    Estimator,
    Known,
    Request,
    Sampler,
    Score,
    StepReport,
)
from negcache.shapes import Float, Int, Tensor
from negcache.towers import without_dropout
from negcache.trace import Trace

Progress = Callable[[Iterable[int]], Iterable[int]]


class SoftmaxLoss(nn.Module):
    """Softmax cross-entropy over a whole corpus, from a few encoded negatives a step.

    Call it on embedded queries, call ``backward`` on what it returns, step your optimizer, then
    call ``step()``. Its ``state_dict`` holds the item tower, the score, the cache, the schedule
    and the generator: a run resumed from it goes on as if it had never stopped.

    Args:
        item_tower: maps ``corpus[ids]`` to embeddings [M, D].
        corpus: features of every item by id; a tensor will do.
        sampler: proposes negatives.
        score: the one score; its parameters train with the loss.
        cache: kept up to date if the sampler reads one; filled before the first step.
        estimator: ``corrected`` or ``pinned``.
        known_positives: never drawn for their query; ``query_ids`` are its rows.
        seed: of the generator behind all draws.
    """

    def __init__(
        self,
        item_tower: nn.Module,
        corpus: Corpus,
        sampler: Sampler,
        score: Score,
        *,
        cache: Cache | None = None,
        estimator: Estimator = corrected,
        known_positives: Known | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(corpus) < 2:
            raise InputError(
                "a corpus of at least 2 items", f"{len(corpus)}", "a softmax needs a negative"
            )
        if sampler.reads_cache and cache is None:
            raise InputError(
                f"a cache for {type(sampler).__name__}", "cache=None", "pass the cache it reads"
            )
        if sampler.reads_cache and distributed.world_size() > 1:
            raise InputError(
                "one process for a cached sampler",
                f"{distributed.world_size()} processes",
                "use a sampler without a cache; caches shared by processes are not built yet",
            )
        self.item_tower, self.corpus = item_tower, corpus
        self.score: Score = score
        self.sampler, self.estimator, self.known_positives = sampler, estimator, known_positives
        self.cache = cache if sampler.reads_cache else None
        self.generator = torch.Generator().manual_seed(seed)
        self._trace, self._filled = Trace(), False

    def forward(
        self,
        queries: Float[Tensor, "B D"],
        positives: Int[Tensor, "B"],
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the batch of -log p+ (nats), under the draw's estimate of the partition.

        Args:
            queries: outputs of the query tower, with gradient.
            positives: the target item of each query.
            query_ids: rows of ``known_positives``; needed when that was given.
            negatives: your own negatives beside the sampled ones, padded with -1; they count with
                weight 1 and are left out of the sampler's draw.

        Raises:
            InputError: ids out of range, or query_ids missing.
        """
        self._check(queries, positives, query_ids, negatives)
        if self.cache is not None and not self._filled:
            self.fill_cache()
        queries = self.score.embed(queries)

        with self._trace.stage("draw"):
            draws = self._draw(queries.detach(), positives, query_ids, negatives)
        with self._trace.stage("encode"):
            wanted = torch.cat([positives, *(draw.ids for draw, _ in draws)])
            ids, place = torch.unique(wanted, return_inverse=True)
            items = self._encode(ids)  # each distinct item once, with gradient
        with self._trace.stage("loss"):
            target, *drawn = place.split([len(positives), *(len(draw.ids) for draw, _ in draws)])
            positive_logits = self.score.paired(queries, items[target].unsqueeze(1)).squeeze(1)
            terms = [
                estimator(self._logits(queries, items[where], draw), draw)
                for where, (draw, estimator) in zip(drawn, draws, strict=True)
            ]
            log_terms = torch.cat(terms, dim=1)
            losses = softmax_loss(positive_logits, log_terms)
        self._trace.note(losses, log_terms, [draw for draw, _ in draws], len(ids))
        if torch.is_grad_enabled() and self.training:
            self._remember(ids, items.detach())
        return losses.mean()

    @torch.no_grad()
    def step(self) -> None:
        """After ``optimizer.step()``: encode the stalest rows anew; one step has passed."""
        if self.cache is None:
            return
        with self._trace.stage("refresh"):
            due = self.cache.due()
            if len(due):
                self.cache.write(due, self._look_at(due))
            self.cache.tick()
        self._trace.encoded_nograd += len(due)

    @torch.no_grad()
    def fill_cache(self, batch_size: int = 1024, progress: Progress = iter) -> None:
        """Encode every item that has no cached row yet; the first step does it if you do not.

        Args:
            batch_size: items encoded at a time.
            progress: wraps the iterable of batch starts, as ``tqdm`` does.
        """
        if self.cache is None:
            return
        empty = (~self.cache.valid).nonzero().squeeze(1)
        for start in progress(range(0, len(empty), batch_size)):
            ids = empty[start : start + batch_size]
            self.cache.write(ids, self._look_at(ids))
        self._trace.encoded_nograd += len(empty)
        self._filled = True

    def report(self) -> StepReport:
        """Figures of the last step, as plain numbers; counters start anew."""
        return self._trace.report()

    def get_extra_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"generator": self.generator.get_state()}
        if self.cache is not None:
            state["cache"] = self.cache.state_dict()
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        if self.cache is not None:
            self.cache.load_state_dict(state["cache"])
            self._filled = bool(self.cache.valid.all())

    def _draw(
        self,
        queries: Tensor,
        positives: Tensor,
        query_ids: Tensor | None,
        negatives: Tensor | None,
    ) -> list[tuple[Draw, Estimator]]:
        """The sampler's draw, and the user's own negatives, over disjoint items."""
        rows = torch.arange(len(positives), device=positives.device)
        if self.known_positives is None or query_ids is None:
            exclude = Exclusion.from_pairs(rows, positives, len(positives))
        else:
            exclude = self.known_positives.exclusion(query_ids, positives)
        draws: list[tuple[Draw, Estimator]] = []
        if negatives is not None:
            own = given(negatives, exclude, queries.dtype)
            draws.append((own, corrected))
            mine = negatives >= 0
            exclude = exclude.and_also(rows[:, None].expand_as(negatives)[mine], negatives[mine])
        world = distributed.world_size()
        first, total = distributed.rank() * len(rows), world * len(rows)
        request = Request(queries, self.score, positives, exclude, first, total)
        return [(self.sampler.draw(request, self.generator), self.estimator), *draws]

    def _logits(self, queries: Tensor, drawn: Tensor, draw: Draw) -> Tensor:
        """Fresh scores in the columns of the draw: one matrix product, or each query its own."""
        if draw.columns is None:
            return self.score(queries, drawn)
        return self.score.paired(queries, drawn[draw.columns])

    def _encode(self, ids: Tensor) -> Tensor:
        features = self.corpus[ids.cpu()].to(self.score.scale.device)
        return self.score.embed(self.item_tower(features))

    def _look_at(self, ids: Tensor) -> Tensor:
        """Encode as search will see the items: no gradient, no dropout."""
        with torch.no_grad(), without_dropout(self.item_tower):
            return self._encode(ids)

    def _remember(self, ids: Tensor, rows: Tensor) -> None:
        """Write back every row encoded in this step, positives and negatives."""
        if self.cache is not None:
            with self._trace.stage("write"):
                self._trace.compare(self.cache.rows(ids), rows)
                self.cache.write(ids, rows)

    def _check(
        self, queries: Tensor, positives: Tensor, query_ids: Tensor | None, negatives: Tensor | None
    ) -> None:
        """Refuse what cannot be right before anything is encoded."""
        if queries.ndim != 2 or len(queries) != len(positives):
            raise InputError(
                f"embedded queries [B, D] and a positive for each, B = {len(positives)}",
                f"queries of shape {tuple(queries.shape)}",
                "pass the query tower's output",
            )
        named = [("positives", positives, 0), ("negatives", negatives, -1)]
        for name, ids, least in named:
            if ids is not None and not bool(((ids >= least) & (ids < len(self.corpus))).all()):
                raise InputError(
                    f"{name} between {least} and {len(self.corpus) - 1}",
                    f"ids from {int(ids.min())} to {int(ids.max())}",
                    "ids are row numbers of the corpus",
                )
        if self.known_positives is not None and query_ids is None:
            raise InputError(
                "query_ids with known_positives", "query_ids=None", "pass the batch's query rows"
            )
