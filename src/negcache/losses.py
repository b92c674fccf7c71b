"""The loss a user calls, and one whole training step of sampled softmax, top to bottom.

draw -> encode what was drawn -> remember -> loss -> (caller: backward) -> (caller: optimizer step)
-> refresh the oldest rows with the new weights -> one step has passed
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from negcache.admission import admit, admit_excluded
from negcache.devices import device_after, move
from negcache.distributed import ALONE, Mesh, shares_gradients
from negcache.encoder import ItemEncoder, Progress
from negcache.errors import InputError
from negcache.estimators import log_q_corrected
from negcache.generators import Generators
from negcache.interfaces import Corpus, Estimator, Known, Sampler, Store
from negcache.learning import admit_sampler, begin, learn, learnt, load_learnt
from negcache.messages import Request, StepReport, gather_columns
from negcache.metrics import Recorder
from negcache.optimizer_steps import OptimizerSteps
from negcache.packing import from_bytes, to_bytes
from negcache.score import DotScore, Score
from negcache.shapes import Float, Int, Tensor
from negcache.step import Encoded, draw_negatives, encode_once, exclusion_of, reduced, sampled_loss
from negcache.stores.among_processes import check_processes, check_refresh, most_of_all
from negcache.validation import (
    check_dimensions,
    check_mini_batches,
    check_no_replica,
    check_own_state,
    check_saved_store,
    check_shared_gradients,
    check_weighting,
)

Ids = Tensor | None


class SoftmaxLoss(nn.Module):
    """Softmax cross-entropy over a whole corpus, from a few encoded negatives a step.

    Call it on embedded queries, call ``backward`` on what it returns, step your optimizer, then
    call ``step()``; or say ``step_with(optimizer)`` once. Its ``state_dict`` holds item tower,
    score, store, refresh and generator: a run resumed from it goes on as if it had never stopped.

    Args:
        item_tower: maps ``corpus[ids]`` to embeddings [M, D].
        corpus: features of every item by id; a tensor will do.
        sampler: proposes negatives; the store it reads, if any, is filled first and kept up to
            date. "auto": ``samplers.Auto``; over a cache that is the corpus, shared draws from it.
        score: the one score; its parameters train with the loss. None: ``DotScore()``.
        estimator: ``log_q_corrected`` or ``cached_partition``.
        known_positives: never drawn for their query; ``query_ids`` are its rows, or its ids.
        mini_batch_size: encode at most so many items at a time, and once more in the backward
            pass; None: all at once. Not for batch normalisation, where items depend on each other.
        gather_across_devices: among several processes, what queries share they share with those of
            all; False: with those of their own process. A store shared by processes wants True.
        seed: of the generator behind all draws.
    """

    def __init__(
        self,
        item_tower: nn.Module,
        corpus: Corpus,
        sampler: Sampler | str = "auto",
        score: Score | None = None,
        *,
        estimator: Estimator = log_q_corrected,
        known_positives: Known | None = None,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_mini_batches(mini_batch_size, item_tower)
        sampler = admit_sampler(sampler, corpus, gather_across_devices)
        self.item_tower, self.corpus = item_tower, corpus
        self.score: Score = DotScore() if score is None else score
        self.sampler, self.estimator, self.known_positives = sampler, estimator, known_positives
        self.mini_batch_size, self.gather_across_devices = mini_batch_size, gather_across_devices
        self.generators = Generators(seed)
        self._recorder, self._steps = Recorder(), OptimizerSteps()
        self._filled: Store | None = None
        self.register_load_state_dict_pre_hook(check_own_state)

    @property
    def store(self) -> Store | None:
        """The store that decides the sampler's draws."""
        return self.sampler.store

    @property
    def encoder(self) -> ItemEncoder:
        """From item ids to embeddings, by the tower as it is now."""
        return ItemEncoder(self.item_tower, self.corpus, self.score, self.mini_batch_size)

    def forward(
        self,
        queries: Float[Tensor, "B D"],
        positives: Int[Tensor, "B *p"],
        query_ids: Int[Tensor, "B"] | None = None,
        negatives: Int[Tensor, "B h"] | None = None,
        *,
        exclude: Int[Tensor, "B x"] | None = None,
        weight: Float[Tensor, "B"] | None = None,
        reduction: str = "mean",
    ) -> Float[Tensor, "*B"]:
        """Mean over the batch of -log p+ (nats), under the draw's estimate of the partition.

        Args:
            queries: outputs of the query tower, with gradient.
            positives: the target item of each query; or several, [B, p], padded with -1: then the
                mean over them is its loss, none competing with another, a repeated one once.
            query_ids: who the queries are to ``known_positives``; needed when that was given.
            negatives: your own beside the sampled ones, padded with -1; not drawn, of weight 1.
            exclude: more that may not stand for each query, such as known positives of a stream.
            weight: of each query; the mean is then ``sum(w l) / sum(w)``.
            reduction: "mean", "sum", or "none": one loss a query, [B].

        Raises:
            InputError: ids or dimensions that do not fit; a process that has what all should have.
        """
        ids, wanted = (positives, query_ids, negatives), self.known_positives is not None
        positives, query_ids, negatives = admit(queries, *ids, len(self.corpus), wanted)
        exclude = admit_excluded(queries, exclude)
        training = self.training and torch.is_grad_enabled()
        check_weighting(weight, reduction, len(queries), training and Mesh.now().size > 1)
        mesh = self._prepare(queries, positives, training)
        queries = self.score.embed(queries)
        with self._recorder.stage("draw"):
            asked = self._ask(queries.detach(), positives, query_ids, exclude, training)
            asked, mine = asked.gathered(mesh)
            negatives = gather_columns(negatives, mesh)
            generator = self.generators.of(training)
            draws = draw_negatives(self.sampler, self.estimator, asked, generator, negatives)
        with self._recorder.stage("encode"):
            encode = partial(self.encoder.encode_together, mesh=mesh)
            items = encode_once(asked.positives, draws, encode)
            check_dimensions(queries, items.rows, "embeddings of items")
        self._remember(items, training)
        with self._recorder.stage("loss"):
            draws = [(drawn.of(mine), estimator) for drawn, estimator in draws]
            found = sampled_loss(queries, asked.positives[mine], items.of(mine), draws, self.score)
        if training:
            self._recorder.encoded_nograd += learn(self.sampler, asked, items, self.encoder)
            self._recorder.record_step(*found, draws[0][0], mesh.parts(len(items.ids))[mesh.rank])
        return reduced(found.losses, weight, reduction, Mesh.now() if training else ALONE)

    def step(self) -> None:
        """After ``optimizer.step()``: encode the oldest rows anew. Raises InputError: another
        process goes on without a step, or ``step_with`` was said."""
        if self._steps.followed:
            raise InputError(
                "steps by the optimizer, after step_with",
                "a call of step()",
                "leave one of the two out: each would count",
            )
        self._advance()

    def step_with(self, optimizer: Any) -> "SoftmaxLoss":
        """``step()`` after every step of this optimizer, in whatever trainer: call it once.

        Steps that a ``GradScaler`` skips do not count. Called again, it follows the new optimizer
        alone. What follows is no part of the state: call it in a resumed run too.
        """
        self._steps.follow(optimizer, self._advance)
        return self

    @property
    def follows_optimizer(self) -> bool:
        """Whether ``step_with`` was said, with an optimizer that is still there."""
        return self._steps.followed

    @torch.no_grad()
    def _advance(self) -> None:
        self._steps.stepped()
        if self.store is None:
            return
        with self._recorder.stage("refresh"):
            planned = self.store.plan()
            most = most_of_all(self.store, len(planned), ahead=1)
            self.store.commit()
            self._refresh(planned, most)
            self.store.step()

    @torch.no_grad()
    def fill_cache(self, batch_size: int = 1024, progress: Progress = iter) -> None:
        """Encode every item that has no stored row yet; the first step does it if you do not.
        ``progress`` wraps the iterable of batch starts, as ``tqdm`` does."""
        if self.store is not None:
            missing = self.store.missing()
            self._refresh(missing, most_of_all(self.store, len(missing)), batch_size, progress)
        self._filled = self.store

    def report(self) -> StepReport:
        """Metrics of the last step, as plain numbers; counters start anew."""
        return self._recorder.report()

    def train(self, mode: bool = True) -> "SoftmaxLoss":
        """As in torch; an evaluation draws from a copy of the generator, made here."""
        self.generators.begin(evaluation=not mode)
        return super().train(mode)

    def get_extra_state(self) -> Tensor:
        """One uint8 tensor, so that safetensors and every trainer can save it."""
        return to_bytes(self.own_state())

    def set_extra_state(self, state: Tensor) -> None:
        self.load_own_state(from_bytes(state, "generator", "filled"))

    def own_state(self) -> dict[str, Any]:
        """What is no weight: store, clock, noise. Those of several processes add up to one's."""
        filled = len(self.corpus) if self._filled is self.store else 0
        state: dict[str, Any] = {"generator": self.generators.get_state(), "filled": filled}
        state |= learnt(self.sampler)
        if self.store is not None:
            state["store"] = self.store.state_dict()
        return state

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restore what ``own_state`` gave: of this process, or of all together."""
        self.generators.set_state(state["generator"])
        load_learnt(self.sampler, state)
        if self.store is not None:
            check_saved_store(state)
            self.store.load_state_dict(state["store"])
            self._filled = self.store if state["filled"] == len(self.corpus) else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SoftmaxLoss":
        """``to(device)`` moves what the sampler holds as well."""
        device = device_after(fn, self.device)
        move(self.sampler, device)  # first: it may refuse
        super()._apply(fn, recurse)
        return self

    @property
    def device(self) -> torch.device:
        """Where the store lies; without one, the parameters."""
        if self.store is not None:
            return self.store.valid.device
        return next((one.device for one in self.parameters()), torch.device("cpu"))

    def _prepare(self, queries: Tensor, positives: Tensor, training: bool) -> Mesh:
        """Refuse what can be, and fill the store; the processes whose queries share draws."""
        mesh = Mesh.now()
        check_no_replica(self)
        admit_sampler(self.sampler, self.corpus, self.gather_across_devices)
        if training:
            begin(self.sampler, queries, positives, self.encoder, self.parameters(), self._pooled)
        if training and mesh.size > 1:
            shared = shares_gradients(self)
            check_shared_gradients(mesh.size, shared, "negcache.Retriever(loss_fn, query_tower)")
            check_refresh(self.store, self.item_tower)
        if self.store is not None:
            check_processes(self.store, self.parameters(), mesh.size)
            if self.store.reencoder is None:
                nothing = torch.empty(0, dtype=torch.int64, device=self.device)
                check_dimensions(queries, self.store.rows(nothing), "rows of the store")
        if self._filled is not self.store:
            self.fill_cache()
        if self.store is not None:
            most_of_all(self.store, 0)
        if training and self.store is not None and not self.store.is_live:
            self._steps.passed()
        return self._pooled

    @property
    def _pooled(self) -> Mesh:
        """The processes for whose queries draws are made together."""
        shared = self.store is not None and self.store.shard.mesh.size > 1
        pooled = shared or (self.gather_across_devices and not self.sampler.has_density)
        return Mesh.now() if pooled else ALONE

    def _ask(
        self, queries: Tensor, positives: Tensor, query_ids: Ids, exclude: Ids, training: bool
    ) -> Request:
        """What the sampler is asked for the queries that are here, each at its place."""
        known = exclusion_of(positives, len(self.corpus), self.known_positives, query_ids)
        place = Mesh.now().place(len(positives), together=training and self._pooled is ALONE)
        asked = Request(queries, self.score, positives, known, *place, len(self.corpus))
        return asked if exclude is None else asked.excluding(exclude)

    def _refresh(self, ids: Tensor, most: int, size: int = 1024, progress: Progress = iter) -> None:
        """Encode items anew and tell the store, ``size`` at a time."""
        assert self.store is not None
        for some, rows in self.encoder.encode_all(ids, size, progress, most):
            self.store.write(some, rows)
        self._recorder.encoded_nograd += len(ids)

    def _remember(self, items: Encoded, training: bool) -> None:
        """Write back every row encoded in this step, positives and negatives."""
        if training and self.store is not None:
            with self._recorder.stage("write"):
                rows = items.rows.detach()
                self._recorder.record_staleness(self.store, items.ids, rows)
                self.store.write(items.ids, rows)
