"""What a training step costs, by counting: no clock, so equal runs decide alike.

The prices are those of one core of a server processor, measured once; what counts is how they
compare. A GPU has others, and all of them smaller.
"""

from dataclasses import dataclass

from negcache.ops.gradient_cosine import POINTS

STEP = 4e-3
"""Seconds for what every step does, whatever its size: some hundred small calls."""

DRAW = 3e-3
"""Seconds for what a draw from a store does, whatever its size."""

FLOP = 1 / 50e9
"""Seconds for a multiplication or an addition in a tower."""

PAIR = 1 / 120e9
"""Seconds for one in the product of queries and items, which are large matrices."""

TERM = 1e-9
"""Seconds for an exponential and what stands around it."""

KEY = 2e-9
"""Seconds for the noise of a score, and for keeping the largest of them."""

ITEM = 2.5e-6
"""Seconds for looking an item up."""

WRITTEN = 4e-6
"""Seconds for a row that is written into a store."""

PARAMETER = 3.5e-9
"""Seconds for the gradient and the update of a parameter."""


@dataclass(frozen=True)
class StepCosts:
    """Seconds, of which only the proportions matter.

    Args:
        queries: B; each with one positive.
        dim: D.
        num_items: N.
        tower_flops: of one item through the item tower, forward.
        parameters: that are trained.
    """

    queries: int
    dim: int
    num_items: int
    tower_flops: int = 0
    parameters: int = 0

    @property
    def encoding(self) -> float:
        """An item with gradient: forward, and twice as much backward."""
        return ITEM + 3 * self.tower_flops * FLOP

    @property
    def looking(self) -> float:
        """An item without gradient."""
        return ITEM + self.tower_flops * FLOP

    @property
    def column(self) -> float:
        """A negative against all queries: product and exponential, again and both gradients."""
        return self.queries * (8 * self.dim * PAIR + 2 * TERM)

    def scan(self, share: float) -> float:
        """Scores over so many of the stored rows; some of them have to be gathered first."""
        rows = self.num_items * share * (1 if share == 1 else 2)
        return self.queries * rows * (2 * self.dim * PAIR + KEY)

    @property
    def fill(self) -> float:
        """Encoding every item once."""
        return self.num_items * self.looking

    def reckoning(self, queries: int, items: int) -> float:
        """What a choice would make of the gradients of some queries, from some items."""
        cells = POINTS * queries * items
        return cells * (2 * self.dim * PAIR + 4 * TERM)

    def step(self, drawn: int, scored: float = 0.0, refreshed: int = 0) -> float:
        """A whole step.

        Args:
            drawn: negatives beside the batch's positives.
            scored: share of the store that some are drawn from.
            refreshed: rows encoded anew in it.
        """
        found = STEP + self.parameters * PARAMETER + 2 * self.queries * self.encoding
        found += (self.queries + drawn) * self.column + drawn * self.encoding
        if not scored:
            return found
        written = self.queries + drawn + refreshed
        return found + DRAW + self.scan(scored) + refreshed * self.looking + written * WRITTEN
