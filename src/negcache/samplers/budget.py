"""Which negatives are worth their cost: choices, how true a step each makes, what each costs."""

import math
from typing import Any

import torch

from negcache.messages import Request
from negcache.ops.gradient_cosine import Extrapolated, Moments
from negcache.samplers.look import Choice, Foresight, Look, Seen, seen_by
from negcache.samplers.step_costs import PAIR, TERM, StepCosts
from negcache.shapes import Float, Tensor

KEPT = 0.25
"""Of what was known of the gradients at each look, if that saw as many items; of fewer, less."""

LOOKED_AT = 32
"""Queries of a look."""

FEWEST = 512
"""Items of a look at least. Few of them do not see what they miss: a hard negative that is not
among them is taken for one that there is not."""

FEWEST_FORETELL = 4096
"""Items of a look from which more of them are foretold; a quarter of fewer says too little."""

THINNED = 256
"""Items that choices are reckoned over, of those that were looked at."""

PAUSES = 32, 512
"""Steps before the first look, and between two at most; each pause is twice the last."""

LOOKING = 0.02
"""Of what the steps before it cost, a look may cost so much, but for its fewest items; the last
pause is longer where these cost more."""

LEAST, MOST = 4, 8192
"""Negatives beside the batch."""

ALONE = 32
"""Queries of a batch whose positives may be the only negatives."""

SCORED = (1.0, 0.25, 0.0625)
"""Shares of the cache that cached draws may be made from."""

WORTH_A_FILL = 3
"""Fills of the cache that the training has cost before one is thought of; twice as many before a
second one, and so on."""

GAIN_OF_A_FILL = 1.1
"""Cached draws must be foretold so much better before a cache is filled for them: what is foretold
is that of a fresh one, and the best of many that are looked at is taken for better than it is."""


class Budget:
    """Learns what each choice is worth, and takes the best: the least ``cost / cosine^2``.

    Args:
        costs: of a step.
        refreshed: stored rows encoded anew in a step, where there is a store.
    """

    on_host = ("seen",)

    def __init__(self, costs: StepCosts, refreshed: int) -> None:
        self.costs, self.refreshed = costs, refreshed
        flat = 0 if costs.queries >= ALONE else self._within(costs.queries)
        self.choice = Choice(flat)  # a softmax of new towers: any pool is good, so the cheapest
        self.seen: dict[Choice, Extrapolated] = {}
        self.looks = self.fills = self.saw = 0
        self.spent = 0.0

    @property
    def choices(self) -> list[Choice]:
        """What there is to choose from."""
        queries = self.costs.queries
        least = self._within(queries // 32)
        sizes = sorted({self._within(least << power) for power in range(0, 12, 2)})
        more = sorted({self._within(queries * quarters // 4) for quarters in (1, 4, 16)})
        cached = (Choice(least, count, scored) for count in more for scored in SCORED)
        alone = [Choice(0)] * (queries >= ALONE)
        return [*alone, *map(Choice, sizes), *cached]

    @property
    def cosines(self) -> dict[Choice, float]:
        """Of every choice that was looked at: of its step to the exact gradient."""
        return {choice: seen.cosine for choice, seen in self.seen.items()}

    def cost(self, choice: Choice) -> float:
        """Of a step, in the seconds of ``StepCosts``."""
        drawn = choice.uniform + choice.cached
        if not choice.cached:
            return self.costs.step(drawn)
        return self.costs.step(drawn, choice.scored, self.refreshed)

    @property
    def looked_at(self) -> int:
        """Items of the next look."""
        each = self.costs.looking + LOOKED_AT * (2 * self.costs.dim * PAIR + TERM)
        paid = LOOKING * self.pause * self.cost(self.choice) / each
        return int(min(max(FEWEST, paid), self.costs.num_items))

    @torch.no_grad()
    def look(
        self,
        request: Request,
        look: Look,
        rows: Float[Tensor, "M D"],
        targets: Float[Tensor, "B p D"],
    ) -> None:
        """Estimate from some of the queries what every choice makes of their gradients.

        Cached draws are taken as those of a fresh cache, until there is one that says how it is.

        Args:
            rows: fresh embeddings of what is looked at.
            targets: those of the queries' positives.
        """
        total = len(request.queries)
        if total < 2 or not len(rows):
            return
        some = torch.arange(0, total, -(-total // LOOKED_AT), device=rows.device)
        seen = seen_by(some, request, look, rows, targets)
        self._remember(seen, total, KEPT * min(1.0, self.saw / len(rows)))
        self.looks, self.saw = self.looks + 1, len(rows)

    def _remember(self, seen: Seen, queries: int, kept: float) -> None:
        """What earlier looks saw fades; sums are kept, for ratios of few queries are biased.

        A choice that costs more than another is worth cannot be the best, and is passed over.
        """
        num_items, fours, least = self.costs.num_items, self._fours(len(seen.look.ids)), math.inf
        whole = Foresight(seen, queries, num_items, THINNED)
        quarter = Foresight(seen.quarter(), queries, num_items, THINNED) if fours else whole
        for choice in sorted(self.choices, key=self.cost):
            if self.cost(choice) > least:
                break
            of_all = whole.under(choice)
            of_some = quarter.under(choice) if fours else of_all
            new = Extrapolated(of_all, of_some, fours)
            self.seen[choice] = new.after(self.seen.get(choice, new), kept)
            least = min(least, self.worth(choice))

    def _fours(self, looked_at: int) -> float:
        """Over how many factors of four a look foretells more items than it sees."""
        if looked_at < FEWEST_FORETELL:
            return 0.0
        return min(1.0, math.log(self.costs.num_items / looked_at, 4))

    def worth(self, choice: Choice) -> float:
        """Cost of what an exact step does."""
        return self.cost(choice) / self.seen[choice].cosine ** 2

    def spend(self, choice: Choice) -> None:
        """A step has been made with it."""
        self.spent += self.cost(choice)

    @property
    def without_batch(self) -> Choice:
        """For a pass that learns nothing, whose batch does not stand."""
        return Choice(self._within(max(FEWEST, self.costs.queries)))

    @property
    def pause(self) -> int:
        """Steps from the last look to the next."""
        shortest, longest = PAUSES
        sights = 2 if self._fours(self.saw) else 1
        reckoning = sights * len(self.seen) * self.costs.reckoning(LOOKED_AT, THINNED)
        least = reckoning + FEWEST * self.costs.looking
        paid = math.ceil(least / self.cost(self.choice) / LOOKING)
        return min(max(longest, paid), shortest << self.looks)

    def decide(self, *, has_store: bool, may_fill: bool = True) -> None:
        """Take what comes furthest along the gradient at the least cost.

        Args:
            has_store: else cached draws want one filled first, and the training has to have cost
                some times as much.
            may_fill: whether that can be done at all.
        """
        paid = may_fill and self.spent >= (WORTH_A_FILL << self.fills) * self.costs.fill
        affordable = has_store or paid
        possible = [choice for choice in self.seen if affordable or not choice.cached]
        gain = 1.0 if has_store else GAIN_OF_A_FILL
        if possible:
            self.choice = min(possible, key=lambda c: self.worth(c) * (gain if c.cached else 1.0))

    def filled(self) -> None:
        """A store has been made for the choice: what was taken of a fresh one is forgotten."""
        self.fills, self.spent = self.fills + 1, 0.0
        self.looks = 0
        self.seen = {choice: seen for choice, seen in self.seen.items() if not choice.cached}

    def explain(self) -> str:
        """What every choice costs, and how true to the gradient its step is."""
        rule = "Negatives beside the batch's positives; the least cost / cosine^2 is chosen."
        cosines = {self.choice: math.nan} | self.cosines  # nan: nothing was seen of it yet
        lines = [rule] + [
            f"{choice.uniform} uniform, {choice.cached} cached of {choice.scored:.0%}: "
            f"cosine {cosine:.3f}, cost {1e3 * self.cost(choice):.2f}"
            + " <- chosen"
            * (choice == self.choice)
            for choice, cosine in sorted(cosines.items())
        ]
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        return {
            "costs": vars(self.costs),
            "refreshed": self.refreshed,
            "choice": list(self.choice),
            "seen": [[list(choice), *_row_of(seen)] for choice, seen in self.seen.items()],
            "looks": self.looks,
            "fills": self.fills,
            "saw": self.saw,
            "spent": self.spent,
        }

    @staticmethod
    def from_state(state: dict[str, Any]) -> "Budget":
        """As it was saved."""
        budget = Budget(StepCosts(**state["costs"]), int(state["refreshed"]))
        budget.choice, budget.spent = Choice(*state["choice"]), float(state["spent"])
        budget.looks, budget.fills = int(state["looks"]), int(state["fills"])
        budget.saw = int(state["saw"])
        budget.seen = dict(_seen_from(*row) for row in state["seen"])
        return budget

    def _within(self, count: int) -> int:
        """A number of negatives that there are, and that is worth asking for."""
        return max(1, min(max(count, LEAST), self.costs.num_items // 2, MOST))


def _row_of(seen: Extrapolated) -> list[Any]:
    return [list(seen.whole), list(seen.quarter), seen.fours]


def _seen_from(
    choice: list[Any], whole: list[float], quarter: list[float], fours: float
) -> tuple[Choice, Extrapolated]:
    return Choice(*choice), Extrapolated(Moments(*whole), Moments(*quarter), fours)
