"""Negatives chosen for the user: the batch's positives, and as many more as pay."""

import math
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from negcache.distributed import Mesh
from negcache.draws import ItemProposal, propose
from negcache.errors import InputError
from negcache.messages import Draw, Request
from negcache.ops.gradient_noise import chances, relative_noise
from negcache.pooled import alike, share
from negcache.samplers.cached import CachedSoftmax
from negcache.samplers.seen_positives import SeenPositives
from negcache.samplers.step_costs import StepCosts
from negcache.samplers.uniform import Uniform
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.stores.dense import DenseCache
from negcache.validation import check_popularity, count_items

LEARN_EVERY, DECIDE_EVERY = 8, 32
"""Steps between two looks at the noise, and between two choices."""

KEPT = 0.8
"""Of what was known of the noise, at each look."""

LOOKED_AT = 64
"""Queries of a look."""

MOST = 8192
"""Negatives beside the batch, at most."""

WORTH_A_FILL = 3
"""Fills of the cache that the training has cost before one is thought of."""


class Choice(NamedTuple):
    """Negatives of a step beside the batch's positives.

    Args:
        uniform: from all items.
        cached: from the softmax over stored embeddings.
    """

    uniform: int
    cached: int = 0


@dataclass(frozen=True)
class Pool:
    """What was drawn last.

    Args:
        draw: as it was given.
        log_share: log pi of its items.
    """

    draw: Draw
    log_share: Float64[Tensor, "M"]


class Auto:
    """The batch's positives, uniform draws, and cached draws where they pay: shared by the batch.

    Every item of the pool has the weight ``log(times seen) - log(times expected)``, expected being
    ``(B - 1) pi`` from the batch, ``M / N`` from M uniform draws and ``M' mean p~`` from cached
    ones: unbiased to O(1/B) at any choice. Each few steps the noise that the negatives add to the
    gradient is estimated for every choice, from scores that the step has anyway, and the choice
    with the least ``(1 + noise) * cost`` is taken: what a given precision costs. Costs are counted,
    never timed, so equal runs choose alike. Embeddings are stored once cached draws are chosen.
    Ours.

    Args:
        items: the corpus, or anything of its length.
        log_popularity: log pi of every item [N], its share of training positives, -inf for none;
            None: it is counted as the batches come.
        refreshed: stored rows encoded anew each step; None: as many as the batch has queries.
        dtype: of stored rows.
    """

    has_density = False
    on_host = ("noise",)

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
        self.costs: StepCosts | None = None
        self.choice = Choice(0)
        self.steps, self.spent = 0, 0.0
        self.noise: dict[Choice, float] = {}
        self.pool: Pool | None = None

    @torch.no_grad()
    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        request.over(self.num_items)
        if self.costs is None:
            self.begin(len(request.queries), request.queries.shape[1])
        drawn, laws = [request.targets], []
        for proposal, count in self._proposals(request, generator):
            ids, log_q = (each.flatten() for each in proposal.draw(request.noise(generator)))
            total = len(ids)
            if count < total:
                some = torch.randperm(total, generator=generator)[:count].to(ids.device)
                ids, log_q = ids[some], log_q[some]
            drawn.append(ids[log_q > -torch.inf])
            times = math.log(proposal.num_negatives * min(count, total) / max(total, 1))
            laws.append((proposal, times))
        ids, seen = torch.unique(torch.cat(drawn), return_counts=True)
        log_share = self._log_share(ids)
        expected = [alike(request.others).to(log_share).log() + log_share]
        expected += [(law.log_expected(ids) + times).to(log_share) for law, times in laws]
        log_expected = torch.stack(torch.broadcast_tensors(*expected)).logsumexp(dim=0)
        found = share(ids, seen, log_expected, request)
        self.pool = Pool(found, log_share)
        return found

    def begin(self, queries: int, dim: int, tower_flops: int = 0, parameters: int = 0) -> None:
        """What a step costs: said once by whoever trains, or taken for that of a light tower."""
        self.costs = StepCosts(queries, dim, self.num_items, tower_flops, parameters)
        self.choice = Choice(self._within(queries))

    @torch.no_grad()
    def learn(
        self, request: Request, rows: Float[Tensor, "M D"], targets: Float[Tensor, "B p D"]
    ) -> None:
        """One training step has been made with the last draw.

        Args:
            request: that was asked.
            rows: fresh embeddings of what was drawn.
            targets: those of the queries' positives.
        """
        assert self.costs is not None
        assert self.pool is not None
        if self.steps % LEARN_EVERY == 0:
            self._look(request, rows, targets)
        if self.log_popularity is None:
            self.seen.add(request.targets)
        self.spent += self._cost(self.choice)
        self.steps += 1
        if self.steps % DECIDE_EVERY == 0 or self.steps == LEARN_EVERY + 1:
            self._decide(request.queries.device)

    def explain(self) -> str:
        """The choices by what they cost, and what they add to the noise of the gradient."""
        lines = [
            f"{choice.uniform} uniform + {choice.cached} cached: noise {noise:.3f}, "
            f"cost {1e3 * self._cost(choice):.2f}" + " <- chosen" * (choice == self.choice)
            for choice, noise in sorted(self.noise.items())
        ]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        costs = None if self.costs is None else vars(self.costs)
        return {
            "seen": self.seen.state_dict(),
            "costs": costs,
            "choice": list(self.choice),
            "steps": self.steps,
            "spent": self.spent,
            "noise": [[*choice, noise] for choice, noise in self.noise.items()],
            "stores": self.store is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What was learnt; the store's own state is loaded by who keeps it."""
        self.seen.load_state_dict(state["seen"])
        self.costs = None if state["costs"] is None else StepCosts(**state["costs"])
        self.choice = Choice(*state["choice"])
        self.steps, self.spent = int(state["steps"]), float(state["spent"])
        self.noise = {Choice(int(u), int(c)): float(noise) for u, c, noise in state["noise"]}
        if state["stores"]:
            self._make_store(self.seen.counts.device)

    def _proposals(
        self, request: Request, generator: torch.Generator
    ) -> list[tuple[ItemProposal, int]]:
        """The laws of this step, each with how many draws are kept of it."""
        found, queries = [], max(1, len(request.queries))
        uniform, cached = self.choice
        each = min(self.num_items, -(-uniform // queries))
        found.append((propose(Uniform(range(self.num_items), each), request, generator), uniform))
        if cached and self.store is not None:
            sampler = CachedSoftmax(self.store, min(self.num_items, -(-cached // queries)))
            found.append((propose(sampler, request, generator), cached))
        return found

    def _log_share(self, ids: Int[Tensor, "M"]) -> Float64[Tensor, "M"]:
        if self.log_popularity is None:
            return self.seen.log_shares(ids)
        return self.log_popularity.to(ids.device)[ids].double()

    def _look(self, request: Request, rows: Tensor, targets: Tensor) -> None:
        """Estimate the noise of every choice from some queries, and remember it."""
        pool, total = self.pool, len(request.queries)
        assert pool is not None
        assert pool.draw.masked is not None
        if total < 2 or not len(rows):
            return
        some = torch.arange(0, total, -(-total // LOOKED_AT), device=rows.device)
        queries = request.queries[some]
        logits = request.score(queries, rows.detach())
        masked = pool.draw.masked.of(some)
        logits[masked.rows, masked.ids] = -torch.inf
        positive = request.score.paired(queries, targets[some, :1].detach()).squeeze(1)
        weight = pool.draw.weight
        weight = weight if weight.ndim == 1 else weight.mean(dim=0)
        found = chances(positive, logits, weight)
        cached = found.among.double().mean(dim=0)
        batch = (total - 1) * pool.log_share.exp()
        choices = self._choices()
        expected = torch.stack([batch + u / self.num_items + c * cached for u, c in choices])
        noise = relative_noise(found, weight.exp(), expected, total).tolist()
        for choice, value in zip(choices, noise, strict=True):
            before = self.noise.get(choice, value)
            self.noise[choice] = KEPT * before + (1 - KEPT) * value

    def _decide(self, device: torch.device) -> None:
        """Take what gives a precision at the least cost."""
        assert self.costs is not None
        affordable = self.store is not None or self.spent >= WORTH_A_FILL * self.costs.fill
        worth = {
            choice: (1 + noise) * self._cost(choice)
            for choice, noise in self.noise.items()
            if affordable or not choice.cached
        }
        if not worth:
            return
        self.choice = min(worth, key=lambda choice: worth[choice])
        if self.choice.cached and self.store is None:
            self._make_store(device)

    def _make_store(self, device: torch.device) -> None:
        assert self.costs is not None
        self.store = DenseCache(
            self.num_items,
            self.costs.dim,
            refresh=min(1.0, self._refreshed / self.num_items),
            dtype=self.dtype,
            device=device,
            mesh=Mesh.now(),
        )

    @property
    def _refreshed(self) -> int:
        assert self.costs is not None
        return self.costs.queries if self.refreshed is None else self.refreshed

    def _choices(self) -> list[Choice]:
        assert self.costs is not None
        queries = self.costs.queries
        least = self._within(queries // 32)
        sizes = sorted({self._within(least << power) for power in range(12)})
        more = sorted({self._within(queries * factor // 4) for factor in (1, 2, 4, 8, 16)})
        return [*map(Choice, sizes), *(Choice(least, count) for count in more)]

    def _within(self, count: int) -> int:
        """A number of negatives that there are, and that is worth asking for."""
        return max(1, min(max(count, 16), self.num_items // 2, MOST))

    def _cost(self, choice: Choice) -> float:
        assert self.costs is not None
        refreshed = self._refreshed if choice.cached else 0
        return self.costs.step(sum(choice), choice.cached > 0, refreshed)
