"""Which negatives are worth their cost: choices, what each adds to the noise, what each costs."""

import math
from typing import Any, NamedTuple

import torch

from negcache.messages import Draw, Request
from negcache.ops.gradient_noise import chances, relative_noise
from negcache.samplers.step_costs import StepCosts
from negcache.shapes import Float, Float64, Tensor

KEPT = 0.8
"""Of what was known of the noise, at each look."""

LOOKED_AT = 64
"""Queries of a look."""

WIDE = 512, 4096
"""Negatives of a look at least, and at most: few of them do not see what they miss."""

PAUSES = 4, 64
"""Steps between the first two looks, and at most; in between each pause is twice the last."""

LOOKING = 0.02
"""Of what the steps between two looks cost, a look may cost so much; the last pause is longer where
the tower is costly."""

LEAST, MOST = 4, 8192
"""Negatives beside the batch."""

ALONE = 32
"""Queries of a batch whose positives may be the only negatives."""

SCORED = (1.0, 0.25, 0.0625)
"""Shares of the cache that cached draws may be made from."""

WORTH_A_FILL = 3
"""Fills of the cache that the training has cost before one is thought of; twice as many before a
second one, and so on."""


class Choice(NamedTuple):
    """Negatives of a step beside the batch's positives.

    Args:
        uniform: from all items.
        cached: from the softmax over stored embeddings.
        scored: share of them that a step looks at.
    """

    uniform: int
    cached: int = 0
    scored: float = 1.0

    def rarity(self, batch: Tensor, softmax: Tensor, num_items: int) -> Tensor:
        """1 / how often items are to be expected; its mean, where some are looked at by chance.

        Args:
            batch: how often each is expected among the batch's positives.
            softmax: mean chance of each under the queries' softmax.
        """
        sure = batch + self.uniform / num_items
        drawn = self.cached * softmax / self.scored
        return self.scored / (sure + drawn) + (1 - self.scored) / sure


class Pool(NamedTuple):
    """What was drawn.

    Args:
        draw: shared by the queries.
        log_share: log pi of its items.
        log_stored: log of their mean chance under the stored softmax, where they were drawn by it.
    """

    draw: Draw
    log_share: Float64[Tensor, "M"]
    log_stored: Float64[Tensor, "M"] | None = None


class Budget:
    """Learns what each choice is worth, and takes the best: the least ``(1 + noise) * cost``.

    Args:
        costs: of a step.
        refreshed: stored rows encoded anew in a step, where there is a store.
    """

    on_host = ("noise",)

    def __init__(self, costs: StepCosts, refreshed: int) -> None:
        self.costs, self.refreshed = costs, refreshed
        self.choice = Choice(self._within(costs.queries))
        self.noise: dict[Choice, float] = {}
        self.looks = self.fills = 0
        self.spent = 0.0

    @property
    def choices(self) -> list[Choice]:
        """What there is to choose from."""
        queries = self.costs.queries
        least = self._within(queries // 32)
        sizes = sorted({self._within(least << power) for power in range(12)})
        more = sorted({self._within(queries * quarters // 4) for quarters in (1, 2, 4, 8, 16)})
        cached = (Choice(least, count, scored) for count in more for scored in SCORED)
        alone = [Choice(0)] * (queries >= ALONE)
        return [*alone, *map(Choice, sizes), *cached]

    def cost(self, choice: Choice) -> float:
        """Of a step, in the seconds of ``StepCosts``."""
        drawn = choice.uniform + choice.cached
        if not choice.cached:
            return self.costs.step(drawn)
        return self.costs.step(drawn, choice.scored, self.refreshed)

    @torch.no_grad()
    def look(
        self,
        request: Request,
        rows: Float[Tensor, "M D"],
        targets: Float[Tensor, "B p D"],
        pool: Pool,
    ) -> None:
        """Estimate the noise of every choice from some of the queries, and remember it.

        Cached draws are taken as those of a fresh cache, until there is one that says how it is.

        Args:
            rows: fresh embeddings of what was drawn.
            targets: those of the queries' positives.
        """
        total, draw = len(request.queries), pool.draw
        if total < 2 or not len(rows) or draw.masked is None:
            return
        some = torch.arange(0, total, -(-total // LOOKED_AT), device=rows.device)
        queries, masked = request.queries[some], draw.masked.of(some)
        logits = request.score(queries, rows)
        logits[masked.rows, masked.ids] = -torch.inf
        positive = request.score.paired(queries, targets[some, :1]).squeeze(1)
        weight = draw.weight if draw.weight.ndim == 1 else draw.weight.mean(dim=0)
        found = chances(positive, logits, weight)
        softmax, batch = found.among.double().mean(dim=0), (total - 1) * pool.log_share.exp()
        if pool.log_stored is not None:
            softmax = pool.log_stored.exp()
        rarity = [each.rarity(batch, softmax, self.costs.num_items) for each in self.choices]
        noise = relative_noise(found, weight.exp(), torch.stack(rarity), total).tolist()
        self.looks += 1
        for choice, value in zip(self.choices, noise, strict=True):
            before = self.noise.get(choice)
            self.noise[choice] = value if before is None else KEPT * before + (1 - KEPT) * value

    def spend(self, choice: Choice) -> None:
        """A step has been made with it."""
        self.spent += self.cost(choice)

    @property
    def wide(self) -> Choice:
        """The choice, with as many uniform draws as a look wants."""
        least, most = WIDE
        wanted = self._within(min(max(least, self.costs.queries), most))
        return self.choice._replace(uniform=max(self.choice.uniform, wanted))

    @property
    def pause(self) -> int:
        """Steps from the last look to the next."""
        shortest, longest = PAUSES
        usual = self.cost(self.choice)
        paid = math.ceil((self.cost(self.wide) / usual - 1) / LOOKING)
        return min(max(longest, paid), shortest << max(0, self.looks - 1))

    def decide(self, *, has_store: bool, may_fill: bool = True) -> None:
        """Take what gives a precision at the least cost.

        Args:
            has_store: else cached draws want one filled first, and the training has to have cost
                some times as much.
            may_fill: whether that can be done at all.
        """
        paid = may_fill and self.spent >= (WORTH_A_FILL << self.fills) * self.costs.fill
        affordable = has_store or paid
        worth = {
            choice: (1 + noise) * self.cost(choice)
            for choice, noise in self.noise.items()
            if affordable or not choice.cached
        }
        if worth:
            self.choice = min(worth, key=lambda choice: worth[choice])

    def filled(self) -> None:
        """A store has been made for the choice: what was taken of a fresh one is forgotten."""
        self.fills, self.spent = self.fills + 1, 0.0
        self.looks = min(self.looks, 1)
        self.noise = {choice: value for choice, value in self.noise.items() if not choice.cached}

    def explain(self) -> str:
        """What every choice costs, and adds to the noise of the gradient."""
        lines = [
            f"{choice.uniform} uniform, {choice.cached} cached of {choice.scored:.0%}: "
            f"noise {noise:.3f}, cost {1e3 * self.cost(choice):.2f}"
            + " <- chosen"
            * (choice == self.choice)
            for choice, noise in sorted(self.noise.items())
        ]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        return {
            "costs": vars(self.costs),
            "refreshed": self.refreshed,
            "choice": list(self.choice),
            "noise": [[*choice, noise] for choice, noise in self.noise.items()],
            "looks": self.looks,
            "fills": self.fills,
            "spent": self.spent,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> "Budget":
        """As it was saved."""
        budget = Budget(StepCosts(**state["costs"]), int(state["refreshed"]))
        budget.choice, budget.spent = Choice(*state["choice"]), float(state["spent"])
        budget.looks, budget.fills = int(state["looks"]), int(state["fills"])
        budget.noise = {Choice(*choice): float(noise) for *choice, noise in state["noise"]}
        return budget

    def _within(self, count: int) -> int:
        """A number of negatives that there are, and that is worth asking for."""
        return max(1, min(max(count, LEAST), self.costs.num_items // 2, MOST))
