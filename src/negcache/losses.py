"""The loss a user calls, and one whole training step of sampled softmax, top to bottom.

draw -> encode what was drawn -> loss -> (caller: backward) -> remember -> (caller: optimizer
step) -> refresh the stalest rows with the new weights -> one step has passed
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from negcache import distributed
from negcache.door import admit, check_cache, check_known, check_saved_cache
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.draws import given
from negcache.functional.estimators import corrected, softmax_loss
from negcache.functional.rest import item_grad_scale, rest_term
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
        mini_batch_size: encode at most so many items at a time, and once more in the backward
            pass, so that memory does not grow with the number of drawn items; None: all at once.
            Not for towers with batch normalisation, whose items depend on each other.
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
        mini_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if mini_batch_size is not None and mini_batch_size < 1:
            raise InputError(
                "mini_batch_size of 1 or more, or None", f"{mini_batch_size}", "32 suits a CPU"
            )
        if mini_batch_size is not None and any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) for module in item_tower.modules()
        ):
            raise InputError(
                "an item tower without batch normalisation for mini_batch_size",
                type(item_tower).__name__,
                "leave mini_batch_size out, or normalise each item by itself (LayerNorm)",
            )
        if len(corpus) < 2:
            raise InputError(
                "a corpus of at least 2 items", f"{len(corpus)}", "a softmax needs a negative"
            )
        if sampler.cache is not None:
            check_cache(sampler.cache.num_items, len(corpus))
        self.item_tower, self.corpus = item_tower, corpus
        self.score: Score = score
        self.sampler, self.estimator, self.known_positives = sampler, estimator, known_positives
        self.cache: Cache | None = sampler.cache
        self.mini_batch_size = mini_batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self._evaluation = self.generator.clone_state()
        self._trace, self._filled = Trace(), False

    def train(self, mode: bool = True) -> "SoftmaxLoss":
        """As in torch; each call of ``eval()`` starts the noise of an evaluation, the same for an
        unchanged model, and leaves that of training alone."""
        self._evaluation = self.generator.clone_state()
        return super().train(mode)

    def forward(
        self,
        queries: Float[Tensor, "B D"],
        positives: Int[Tensor, "B *p"],
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the batch of -log p+ (nats), under the draw's estimate of the partition.

        Args:
            queries: outputs of the query tower, with gradient.
            positives: the target item of each query; or several, [B, p], padded with -1: the loss
                of a query is then the mean over its positives, none competing with another, a
                repeated one once.
            query_ids: rows of ``known_positives``; needed when that was given.
            negatives: your own negatives beside the sampled ones, padded with -1; they count with
                weight 1 and are left out of the sampler's draw.

        Raises:
            InputError: ids out of range, also known ones, or query_ids missing.
        """
        given_ids, known = (positives, query_ids, negatives), self.known_positives is not None
        positives, query_ids, negatives = admit(queries, *given_ids, len(self.corpus), known)
        if not self._filled:
            self.fill_cache()
        queries = self.score.embed(queries)
        with self._trace.stage("draw"):
            draws = self._draw(queries.detach(), positives, query_ids, negatives)
        with self._trace.stage("encode"):
            wanted = [_without_padding(positives).flatten(), *(draw.ids for draw, _ in draws)]
            ids, place = torch.unique(torch.cat(wanted), return_inverse=True)
            items = self._encode(ids)  # each distinct item once, with gradient
        if self.training and torch.is_grad_enabled():
            self._remember(ids, items.detach())
        with self._trace.stage("loss"):
            places = place.split([len(w) for w in wanted])
            target, *drawn = (nn.functional.embedding(where, items) for where in places)
            log_terms = self._terms(queries, drawn, draws)
            target = target.view(len(queries), -1, items.shape[1])
            losses = softmax_loss(self.score.paired(queries, target), log_terms)
            losses = mean_of_positives(losses, positives)
        if self.training:
            self._trace.note(losses, log_terms, draws[0][0], len(ids))
        return losses.mean()

    @torch.no_grad()
    def step(self) -> None:
        """After ``optimizer.step()``: encode the stalest rows anew; one step has passed."""
        if self.cache is None:
            return
        with self._trace.stage("refresh"):
            self._refresh(self.cache.due())
            self.cache.tick()

    @torch.no_grad()
    def fill_cache(self, batch_size: int = 1024, progress: Progress = iter) -> None:
        """Encode every item that has no cached row yet; the first step does it if you do not.

        Args:
            batch_size: items encoded at a time.
            progress: wraps the iterable of batch starts, as ``tqdm`` does.
        """
        if self.cache is not None:
            self._refresh(self.cache.missing(), batch_size, progress)
        self._filled = True

    def report(self) -> StepReport:
        """Figures of the last step, as plain numbers; counters start anew."""
        return self._trace.report()

    def get_extra_state(self) -> dict[str, Any]:
        filled = len(self.corpus) if self._filled else 0
        state: dict[str, Any] = {"generator": self.generator.get_state(), "filled": filled}
        if self.cache is not None:
            state["cache"] = self.cache.state_dict()
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._evaluation = self.generator.clone_state()
        if self.cache is not None:
            check_saved_cache(state)
            self.cache.load_state_dict(state["cache"])
            self._filled = state.get("filled") == len(self.corpus)

    def _draw(
        self,
        queries: Tensor,
        positives: Tensor,
        query_ids: Tensor | None,
        negatives: Tensor | None,
    ) -> list[tuple[Draw, Estimator]]:
        """The sampler's draw, and the user's own negatives, over disjoint items."""
        rows = torch.arange(len(positives), device=positives.device)
        exclude = self._exclude(positives, query_ids)
        draws: list[tuple[Draw, Estimator]] = []
        if negatives is not None:
            own = given(negatives, exclude, queries.dtype)
            draws.append((own, corrected))
            mine = negatives >= 0
            exclude = exclude.and_also(rows[:, None].expand_as(negatives)[mine], negatives[mine])
        places = distributed.rank() * len(rows), distributed.world_size() * len(rows)
        request = Request(queries, self.score, positives, exclude, *places, len(self.corpus))
        generator = self.generator if self.training else self._evaluation
        with torch.autocast(queries.device.type, enabled=False):  # laws are float32 at least
            drawn = self.sampler.draw(request, generator)
        return [(drawn, self.estimator), *draws]

    def _exclude(self, positives: Tensor, query_ids: Tensor | None) -> Exclusion:
        """The known positives of each query, and its targets of this batch."""
        several = positives.view(len(positives), -1)
        rows, columns = (several >= 0).nonzero(as_tuple=True)
        if self.known_positives is None or query_ids is None:
            return Exclusion.from_pairs(rows, several[rows, columns], len(several))
        known = self.known_positives.exclusion(query_ids, several.amax(dim=1))
        check_known(known.ids, len(self.corpus))
        return known if positives.ndim == 1 else known.and_also(rows, several[rows, columns])

    def _terms(
        self, queries: Tensor, drawn: list[Tensor], draws: list[tuple[Draw, Estimator]]
    ) -> Tensor:
        """Log-terms of all draws from fresh scores, and of what they leave to the cache."""
        terms = []
        for items, (draw, estimator) in zip(drawn, draws, strict=True):
            if draw.rest is not None:
                items = item_grad_scale(items, draw.rest.inclusion)
                terms.append(rest_term(queries, self.score, draw.rest))
            terms.append(estimator(self._logits(queries, items, draw), draw))
        return torch.cat(terms, dim=1)

    def _logits(self, queries: Tensor, drawn: Tensor, draw: Draw) -> Tensor:
        """Fresh scores in the columns of the draw: one matrix product, or each query its own."""
        if draw.columns is None:
            return self.score(queries, drawn)
        return self.score.paired(queries, nn.functional.embedding(draw.columns, drawn))

    def _encode(self, ids: Tensor) -> Tensor:
        """Embeddings of items; in mini-batches that are encoded again in the backward pass."""
        parts = []
        for chunk in ids.split(self.mini_batch_size or max(len(ids), 1)):
            features = _move(self.corpus[chunk.cpu()], ids.device)
            if len(chunk) < len(ids) and torch.is_grad_enabled():
                rows = checkpoint(self.item_tower, features, use_reentrant=False)
            else:
                rows = self.item_tower(features)
            parts.append(finite(self.score.embed(rows), chunk))
        return torch.cat(parts)

    def _look_at(self, ids: Tensor) -> Tensor:
        """Encode as search will see the items: no gradient, no dropout."""
        with torch.no_grad(), without_dropout(self.item_tower):
            return self._encode(ids)

    def _refresh(self, ids: Tensor, batch_size: int = 1024, progress: Progress = iter) -> None:
        """Encode items anew and tell the cache, ``batch_size`` at a time."""
        assert self.cache is not None
        for start in progress(range(0, len(ids), batch_size)):
            some = ids[start : start + batch_size]
            self.cache.write(some, self._look_at(some))
        self._trace.encoded_nograd += len(ids)

    def _remember(self, ids: Tensor, rows: Tensor) -> None:
        """Write back every row encoded in this step, positives and negatives."""
        if self.cache is not None:
            with self._trace.stage("write"):
                self._trace.look(self.cache, ids, rows)
                self.cache.write(ids, rows)


def _without_padding(positives: Tensor) -> Tensor:
    """Padding becomes a positive of the same query: it is encoded anyway."""
    several = positives.view(len(positives), -1)
    return several.where(several >= 0, several.amax(dim=1, keepdim=True))


def mean_of_positives(losses: Tensor, positives: Tensor) -> Tensor:
    """[B, p] losses of padded positives -> the mean of each query's own, [B]."""
    real = positives.view(losses.shape) >= 0
    return losses.where(real, 0.0).sum(dim=1) / real.sum(dim=1)


def _move(features: Any, device: torch.device) -> Any:
    """Features as they are, on the device: a tensor, anything with ``to``, or a dict of these."""
    if isinstance(features, dict):
        return {name: _move(value, device) for name, value in features.items()}
    return features.to(device) if hasattr(features, "to") else features
