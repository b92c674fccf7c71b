"""Negatives chosen for the user: the batch's positives, and as many more as pay."""

import math
from collections.abc import Callable, Sized
from copy import copy
from dataclasses import replace
from typing import Any

import torch

from negcache.distributed import Mesh
from negcache.draws import ItemProposal, propose
from negcache.errors import InputError
from negcache.interfaces import Corpus, Sampler, Store
from negcache.messages import Draw, Request
from negcache.pooled import alike, share
from negcache.samplers.budget import PAUSES, Budget
from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.combinators import SharedDraws
from negcache.samplers.look import Choice, Look
from negcache.samplers.seen_positives import SeenPositives
from negcache.samplers.step_costs import StepCosts
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.stores.dense import DenseCache
from negcache.validation import check_popularity, count_items

Encode = Callable[[Int[Tensor, "M"]], Float[Tensor, "M D"]]
"""Items as they are today, without gradient."""


class Auto:
    """The batch's positives, uniform draws, and cached draws where they pay: shared by the batch.

    Every item of the pool has the weight ``log(times seen) - log(times expected)``, expected being
    ``(B - 1) pi`` from the batch, ``M / N`` from M uniform draws and ``M' mean p~`` from cached
    ones: unbiased to O(1/B) at any choice. Passes without gradient leave the batch out, as their
    queries may be others than those that were counted. Each few steps the cosine of a step to the
    exact gradient is estimated for every choice, from fresh embeddings of as many items as is
    worth it, and the choice with the least ``cost / cosine^2`` is taken. Costs are counted, never
    timed, so equal runs choose alike. Embeddings are stored while cached draws are chosen. Ours.

    Args:
        items: the corpus, or anything of its length.
        log_popularity: log pi of every item [N], its share of training positives, -inf for none;
            None: it is counted as the batches come.
        refreshed: stored rows encoded anew each step; None: as many as the batch has queries.
        dtype: of stored rows.
    """

    has_density = False

    def __init__(
        self,
        items: Sized,
        *,
        log_popularity: Float[Tensor, "N"] | None = None,
        refreshed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_items = count_items(items)
        if self.num_items < 2:
            raise InputError("at least 2 items", f"{self.num_items}", "a softmax needs a negative")
        if log_popularity is not None:
            check_popularity(log_popularity)
        self.log_popularity, self.refreshed, self.dtype = log_popularity, refreshed, dtype
        self.seen = SeenPositives(self.num_items if log_popularity is None else 1)
        self.store: DenseCache | None = None
        self.budget: Budget | None = None
        self.look: Look | None = None
        self.steps, self.next_look = 0, PAUSES[0]

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        request.over(self.num_items)
        trains = torch.is_grad_enabled()
        with torch.no_grad():
            choice = self.choice if trains and self.has_begun else self._choice_of_nothing(request)
            uniform = self._uniform(request, choice.uniform, generator)
            law = self._cached_law(request, choice, generator)
            drawn = self._pool(request, choice, uniform, law, generator, with_batch=trains)
            if trains and self.has_begun and self.looks:
                self.look = self._look(request, law, generator)
        return replace(drawn, metrics={k: float(value) for k, value in choice._asdict().items()})

    @property
    def choice(self) -> Choice:
        """What is drawn in this step."""
        return Choice(0) if self.budget is None else self.budget.choice

    @property
    def looks(self) -> bool:
        """Whether this step looks at what choices are worth."""
        return self.steps >= self.next_look

    @property
    def has_begun(self) -> bool:
        return self.budget is not None

    def begin(self, queries: int, dim: int, tower_flops: int, parameters: int) -> None:
        """What a step costs; taken for that of a light tower where nobody says it."""
        costs = StepCosts(queries, dim, self.num_items, tower_flops, parameters)
        self.budget = Budget(costs, queries if self.refreshed is None else self.refreshed)

    def learn(self, request: Request, targets: Float[Tensor, "B p D"], encode: Encode) -> None:
        """A training step was made with the last draw."""
        assert self.budget is not None
        self.budget.spend(self.choice)
        if self.looks and self.look is not None:
            self.budget.look(request, self.look, encode(self.look.ids), targets)
            # processes that draw apart look apart, and would not fill a shared store together
            together = request.total_rows in (None, len(request.queries))
            self.budget.decide(has_store=self.store is not None, may_fill=together)
            if not self.budget.choice.cached:
                self.store = None
            elif self.store is None:
                self.budget.filled()
                self._make_store(request.queries.device)
            self.next_look, self.look = self.steps + self.budget.pause, None
        if self.log_popularity is None:
            self.seen.add(request.targets)
        self.steps += 1

    def at_rest(self) -> "Auto":
        """One that draws as the steps between two looks do; this one is left as it is."""
        still = copy(self)
        still.next_look = self.steps + 1
        return still

    def with_choice(self, choice: Choice) -> "Auto":
        """One at rest that has chosen otherwise; this one is left as it is.

        Cached draws come from the store that there is; else from a new one, which is empty.
        """
        assert self.budget is not None
        other = self.at_rest()
        other.budget = copy(self.budget)
        other.budget.choice = choice
        if not choice.cached:
            other.store = None
        elif other.store is None:
            other._make_store(self.seen.counts.device)
        return other

    def explain(self) -> str:
        """What is chosen, and why: every choice with its cosine and its cost."""
        return "nothing has been drawn" if self.budget is None else self.budget.explain()

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": self.seen.state_dict(),
            "budget": None if self.budget is None else self.budget.state_dict(),
            "steps": self.steps,
            "next_look": self.next_look,
            "stores": self.store is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was learnt; the store's own state is loaded by who keeps it."""
        self.seen.load_state_dict(state["seen"])
        self.budget = None if state["budget"] is None else Budget.from_state(state["budget"])
        self.steps, self.next_look = int(state["steps"]), int(state["next_look"])
        self.store = None
        if state["stores"]:
            self._make_store(self.seen.counts.device)

    def _choice_of_nothing(self, request: Request) -> Choice:
        """For a pass that learns nothing, from a batch of whatever size."""
        queries, dim = request.queries.shape
        budget = self.budget or Budget(StepCosts(queries, dim, self.num_items), 0)
        return budget.without_batch

    def _uniform(
        self, request: Request, count: int, generator: torch.Generator
    ) -> Int[Tensor, "M"]:
        """So many of all items, no matter for whom: where one may not stand it is masked."""
        noise = request.uniforms(generator, self._each(request, count)).flatten()[:count]
        return (noise * self.num_items).long().clamp_(max=self.num_items - 1)

    def _pool(
        self,
        request: Request,
        choice: Choice,
        uniform: Int[Tensor, "M"],
        law: ItemProposal | None,
        generator: torch.Generator,
        *,
        with_batch: bool,
    ) -> Draw:
        """Without the batch's positives where they are of other queries than those counted."""
        drawn, log_times = [uniform], 0.0
        if with_batch:
            drawn.append(request.targets)
        if law is not None:
            cached, log_times = law.draw_some(choice.cached, generator)
            drawn.append(cached)
        ids, seen = torch.unique(torch.cat(drawn), return_counts=True)
        share_of_each = len(uniform) / self.num_items
        expected = torch.full_like(ids, share_of_each, dtype=torch.float64)
        if with_batch:
            expected = expected + alike(request.others) * self._log_share(ids).exp()
        if law is not None:
            expected = expected + (law.log_expected(ids).double() + log_times).exp()
        return share(ids, seen, expected.log(), request)

    def _look(self, request: Request, law: ItemProposal | None, generator: torch.Generator) -> Look:
        """One item of each of as many stretches of all."""
        assert self.budget is not None
        count, device = self.budget.looked_at, request.queries.device
        places = torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)
        places = (places * (self.num_items / count)).long().clamp_max(self.num_items - 1)
        ids = torch.unique_consecutive(places).to(device)  # short stretches may share an item
        log_share, stored = self._log_share(ids), None
        if law is not None and self.choice.scored == 1:
            expected = law.log_expected(ids).to(log_share)
            stored = expected - math.log(len(request.queries))
        return Look(ids, log_share, stored)

    def _cached_law(
        self, request: Request, choice: Choice, generator: torch.Generator
    ) -> ItemProposal | None:
        """Of cached draws, where there are any."""
        if not choice.cached or self.store is None:
            return None
        each = self._each(request, choice.cached)
        return propose(CachedSoftmax(self.store, each, scored=choice.scored), request, generator)

    def _each(self, request: Request, count: int) -> int:
        """Draws of each query, so that there are as many."""
        return min(self.num_items, -(-count // max(1, len(request.queries))))

    def _log_share(self, ids: Int[Tensor, "M"]) -> Float64[Tensor, "M"]:
        if self.log_popularity is None:
            return self.seen.log_shares(ids)
        return self.log_popularity.to(ids.device)[ids].double()

    def _make_store(self, device: torch.device) -> None:
        assert self.budget is not None
        refresh = min(1.0, self.budget.refreshed / self.num_items)
        self.store = DenseCache(
            self.num_items,
            self.budget.costs.dim,
            refresh=refresh,
            dtype=self.dtype,
            device=device,
            mesh=Mesh.now(),
        )


def sampler_for(sampler: Sampler | str, corpus: Corpus) -> Sampler:
    """A sampler itself, or what "auto" stands for: over a cache that is the corpus, its draws.

    Raises:
        InputError: another word.
    """
    if not isinstance(sampler, str):
        return sampler
    if sampler != "auto":
        raise InputError('a sampler, or "auto"', repr(sampler), "pass for example nc.InBatch()")
    if isinstance(corpus, Store):
        return SharedDraws(CachedSoftmax(corpus, 1))
    return Auto(corpus)
