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
from negcache.towers import finite, without_dropout
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
        sampler: proposes negatives; the cache it reads, if any, is filled before the first step
            and kept up to date.
        score: the one score; its parameters train with the loss.
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
        estimator: Estimator = corrected,
        known_positives: Known | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(corpus) < 2:
            raise InputError(
                "a corpus of at least 2 items", f"{len(corpus)}", "a softmax needs a negative"
            )
        if sampler.cache is not None:
            _check_cache(sampler.cache, len(corpus))
        self.item_tower, self.corpus = item_tower, corpus
        self.score: Score = score
        self.sampler, self.estimator, self.known_positives = sampler, estimator, known_positives
        self.cache: Cache | None = sampler.cache
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
        if not self._filled:
            self.fill_cache()
        queries = self.score.embed(queries)
        with self._trace.stage("draw"):
            draws = self._draw(queries.detach(), positives, query_ids, negatives)
        with self._trace.stage("encode"):
            wanted = [positives, *(draw.ids for draw, _ in draws)]
            ids, place = torch.unique(torch.cat(wanted), return_inverse=True)
            items = self._encode(ids)  # each distinct item once, with gradient
        if self.training and torch.is_grad_enabled():
            self._remember(ids, items.detach())
        with self._trace.stage("loss"):
            target, *drawn = (items[where] for where in place.split([len(w) for w in wanted]))
            positive_logits = self.score.paired(queries, target.unsqueeze(1)).squeeze(1)
            terms = [
                estimator(self._logits(queries, rows, draw), draw)
                for rows, (draw, estimator) in zip(drawn, draws, strict=True)
            ]
            log_terms = torch.cat(terms, dim=1)
            losses = softmax_loss(positive_logits, log_terms)
        if self.training:
            self._trace.note(losses, log_terms, draws[0][0], len(ids))
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
        if self.cache is not None:
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
        first, total = distributed.rank() * len(rows), distributed.world_size() * len(rows)
        request = Request(queries, self.score, positives, exclude, first, total)
        generator = self.generator if self.training else self.generator.clone_state()
        return [(self.sampler.draw(request, generator), self.estimator), *draws]

    def _logits(self, queries: Tensor, drawn: Tensor, draw: Draw) -> Tensor:
        """Fresh scores in the columns of the draw: one matrix product, or each query its own."""
        if draw.columns is None:
            return self.score(queries, drawn)
        return self.score.paired(queries, drawn[draw.columns])

    def _encode(self, ids: Tensor) -> Tensor:
        features = _move(self.corpus[ids.cpu()], ids.device)
        return finite(self.score.embed(self.item_tower(features)), ids)

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
        wrong = [
            f"{name} of shape {tuple(given.shape)}"
            for name, given, dims in (
                ("queries", queries, 2),
                ("positives", positives, 1),
                ("query_ids", query_ids, 1),
                ("negatives", negatives, 2),
            )
            if given is not None and (given.ndim != dims or len(given) != len(queries))
        ]
        if wrong or not len(queries):
            raise InputError(
                "queries [B, D], positives [B], query_ids [B] and negatives [B, h], B at least 1",
                ", ".join(wrong) or "an empty batch",
                "pass one row for each query of the batch",
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


def _check_cache(cache: Cache, num_items: int) -> None:
    """A cached sampler needs a row for every item, and for now a process of its own."""
    if cache.num_items != num_items:
        raise InputError(
            f"a cache of the corpus' {num_items} items",
            f"{cache.num_items} rows",
            "build the cache with len(corpus)",
        )
    if distributed.world_size() > 1:
        raise InputError(
            "one process for a cached sampler",
            f"{distributed.world_size()} processes",
            "use a sampler without a cache; caches shared by processes are not built yet",
        )


def _move(features: Any, device: torch.device) -> Any:
    """Features as they are, on the device: a tensor, anything with ``to``, or a dict of these."""
    if isinstance(features, dict):
        return {name: _move(value, device) for name, value in features.items()}
    return features.to(device) if hasattr(features, "to") else features
