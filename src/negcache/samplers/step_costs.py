"""What a training step costs, by counting: no clock, so equal runs decide alike.

The prices are those of one core of a server processor, measured once; what counts is how they
compare. A GPU has others, and all of them smaller.
"""

from dataclasses import dataclass

from negcache.ops.gradient_cosine import POINTS

FLOP = 1 / 40e9
"""Seconds for a multiplication or an addition in a product."""

TERM = 1.5e-9
"""Seconds for an exponential and what stands around it."""

ITEM = 2e-6
"""Seconds for looking an item up."""

PARAMETER = 3e-9
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
        return ITEM / 2 + self.tower_flops * FLOP

    @property
    def column(self) -> float:
        """A negative against all queries: product and exponential, again and both gradients."""
        return self.queries * (8 * self.dim * FLOP + 2 * TERM)

    @property
    def scan(self) -> float:
        """A pass of scores over the stored rows of all items."""
        return self.queries * self.num_items * (2 * self.dim * FLOP + TERM)

    @property
    def fill(self) -> float:
        """Encoding every item once."""
        return self.num_items * self.looking

    def reckoning(self, queries: int, items: int) -> float:
        """What a choice would make of the gradients of some queries, from some items."""
        cells = POINTS * queries * items
        return cells * (2 * self.dim * FLOP + 4 * TERM)

    def step(self, drawn: int, scored: float = 0.0, refreshed: int = 0) -> float:
        """A whole step.

        Args:
            drawn: negatives beside the batch's positives.
            scored: share of the store that some are drawn from.
            refreshed: rows encoded anew in it.
        """
        fixed = 2 * self.queries * self.encoding + self.parameters * PARAMETER
        found = fixed + (self.queries + drawn) * self.column + drawn * self.encoding
        return found + scored * self.scan + refreshed * self.looking
