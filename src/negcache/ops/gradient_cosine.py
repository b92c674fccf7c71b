"""How well a step with sampled negatives points along the gradient, under laws that were not drawn.

A query's gradient is ``h = sum_j p_j (x_j - x+)``. In a pool in which item j is found n_j times,
and e_j times are to be expected, it counts ``n_j p_j / e_j``, and the softmax over the pool makes

    g = sum_j n_j p_j / e_j (x_j - x+) / (p+ + sum_k n_k p_k / e_k)

of h. Its cosine, ``<E g, h> / sqrt(|h|^2 E|g|^2)``, falls with the noise of what was drawn and with
what is seldom drawn: a rare hard negative is lost more often than it errs. Noise of relative size v
in the square has ``cosine^2 = 1 / (1 + v)``, and as many more steps are needed for what one exact
step does.

With n_j of Poisson's law, which they nearly have, the mean over pools is an integral. By
``1 / x = int exp(-t x) dt``, and as every n is on its own,

    E g     = int   exp(-t p+) L(t) V(t) dt
    E |g|^2 = int t exp(-t p+) L(t) (|V(t)|^2 + sum_j p_j^2 / e_j k_j(t) |x_j - x+|^2) dt

with ``k_j(t) = exp(-t p_j / e_j)``, ``V(t) = sum_j p_j k_j(t) (x_j - x+)`` and ``L(t) =
exp(-sum_j e_j (1 - k_j(t)))``, the mean of ``exp(-t sum_k n_k p_k / e_k)``.

One drawn pool tells the sums for any other law: item j stands for some items.
"""

import math
from typing import NamedTuple

import torch

from negcache.shapes import Float, Int, Tensor

LEAST = 1e-3
"""Cosine of a step that does not point along the gradient at all."""

PER_DECADE = 2
"""Points of the integral: the trapezium rule in log t errs by less than a hundredth."""

DECADES = -3, 4
"""Between which powers of ten t is looked at."""

NEVER = 1e30
"""Rarity of what never stands in a pool: its products are finite."""

POINTS = PER_DECADE * (DECADES[1] - DECADES[0]) + 1


class Chances(NamedTuple):
    """What some queries make of a pool.

    Args:
        positive: p+ of each query.
        softmax: p of each item for each query, the positive in the sum.
        among: the same, of the negatives alone.
    """

    positive: Float[Tensor, "b"]
    softmax: Float[Tensor, "b M"]
    among: Float[Tensor, "b M"]

    def of(self, chosen: Int[Tensor, "m"]) -> "Chances":
        """Some items of the pool."""
        return Chances(self.positive, self.softmax[:, chosen], self.among[:, chosen])


def chances(
    positive: Float[Tensor, "b"], logits: Float[Tensor, "b M"], log_weight: Float[Tensor, "M"]
) -> Chances:
    """From fresh scores; -inf among ``logits`` where an item may not stand.

    Args:
        log_weight: log of how many items each stands for.
    """
    log_rest = torch.logsumexp(logits + log_weight, dim=1)
    log_all = torch.logaddexp(log_rest, positive)
    within = log_rest.masked_fill(log_rest == -torch.inf, 0.0)
    return Chances(
        (positive - log_all).exp(),
        (logits - log_all[:, None]).exp(),
        (logits - within[:, None]).exp(),
    )


def thinned(
    softmax: Float[Tensor, "b M"], stands_for: Float[Tensor, "M"], keep: int
) -> tuple[Int[Tensor, "m"], Float[Tensor, "m"]]:
    """At most so many items, half by their mass and half evenly, that stand for all.

    Systematic: every item is a stretch of a line, and marks stand on it at equal distances.

    Returns:
        Their columns, and how many items each of them stands for.
    """
    mass = (softmax.sum(dim=0) * stands_for).double()
    even, by_mass = 1 / len(mass), mass / mass.sum().clamp_min(1e-300)
    chance = (keep * (even + by_mass) / 2).clamp_max(1.0)
    marks = (chance.cumsum(0) + 0.5).floor()
    chosen = torch.nonzero(marks.diff(prepend=marks.new_zeros(1)) > 0).squeeze(1)
    return chosen, stands_for[chosen] / chance[chosen].to(stands_for)


class Moments(NamedTuple):
    """Sums over queries, of the exact gradient h and of g under a law.

    Args:
        exact: |h|^2.
        along: <E g, h>.
        square: E |g|^2.
    """

    exact: float
    along: float
    square: float

    @property
    def cosine(self) -> float:
        """Of a step to the exact gradient, in the root mean square."""
        if not self.exact * self.square:
            return LEAST if self.exact else 1.0
        return min(1.0, max(LEAST, self.along / math.sqrt(self.exact * self.square)))

    def after(self, earlier: "Moments", kept: float) -> "Moments":
        """Joined by what was seen before, of which so much is kept."""
        pairs = zip(earlier, self, strict=True)
        return Moments(*(kept * old + (1 - kept) * new for old, new in pairs))


class Extrapolated(NamedTuple):
    """What a law makes of the gradients, foretold for more items than were looked at.

    A look sees the hard negatives that are in it, and misses what it misses of the others: a law
    that seldom finds them looks too good. ``1 / cosine^2`` goes nearly as a power of how many
    items are looked at; a quarter of them tells which.

    Args:
        whole: from all that were looked at.
        quarter: from every fourth of them.
        fours: how many times four times as many there are to look at.
    """

    whole: Moments
    quarter: Moments
    fours: float = 0.0

    @property
    def cosine(self) -> float:
        """Of a step to the exact gradient, in the root mean square."""
        power = (self.whole.cosine / self.quarter.cosine) ** self.fours
        return min(1.0, max(LEAST, self.whole.cosine * power))

    def after(self, earlier: "Extrapolated", kept: float) -> "Extrapolated":
        """Joined by what was seen before, of which so much is kept."""
        whole = self.whole.after(earlier.whole, kept)
        quarter = self.quarter.after(earlier.quarter, kept)
        return Extrapolated(whole, quarter, kept * earlier.fours + (1 - kept) * self.fours)


class Looked:
    """Some queries, and a pool of items that each stand for some.

    Args:
        found: what the queries make of it.
        stands_for: how many items each stands for.
        items: embeddings.
        positives: of each query.
    """

    def __init__(
        self,
        found: Chances,
        stands_for: Float[Tensor, "M"],
        items: Float[Tensor, "M D"],
        positives: Float[Tensor, "b D"],
    ) -> None:
        self.found, self.weight, self.items, self.positives = found, stands_for, items, positives
        sizes = items.square().sum(1) + positives.square().sum(1, keepdim=True)
        self.apart = (sizes - 2 * positives @ items.T).clamp_min(0) * stands_for
        self.exact = self._vectors(found.softmax)
        self.size = float(self._product(self.exact, found.softmax, self.exact, found.softmax).sum())

    def under(self, rarity: Float[Tensor, "M"]) -> Moments:
        """What a law makes of the gradients.

        Sums are estimated without bias from the pool, but for those that cannot be negative.

        Args:
            rarity: 1 / e of each item, or what that is to be expected; inf where it never stands.
        """
        p, step = self.found.softmax, math.log(10) / PER_DECADE
        rarity = rarity.clamp_max(NEVER)
        counts, expected, own = p * rarity, self.weight / rarity, p.square() * rarity * self.apart
        along, square = torch.zeros_like(p[:, 0]), torch.zeros_like(p[:, 0])
        for point in range(POINTS):
            t = 10.0 ** (DECADES[0] + point / PER_DECADE)
            kept = (-t * counts).exp()
            rest = (-t * self.found.positive - (1 - kept) @ expected).exp() * t * step
            parts = p * kept
            vectors = self._vectors(parts)
            along += rest * self._product(vectors, parts, self.exact, p)
            pairs = self._product(vectors, parts, vectors, parts)
            square += rest * t * (pairs + (own * kept).sum(1))
        return Moments(self.size, float(along.sum()), float(square.sum()))

    def _vectors(self, parts: Float[Tensor, "b M"]) -> Float[Tensor, "b D"]:
        """sum_j parts_j (x_j - x+)"""
        parts = parts * self.weight
        return parts @ self.items - parts.sum(1, keepdim=True) * self.positives

    def _product(self, one: Tensor, parts: Tensor, other: Tensor, of: Tensor) -> Tensor:
        """<one, other>, but an item and itself count once where they would w^2 times."""
        own = parts * of * self.apart
        crossed = (one * other).sum(1) - own @ self.weight
        return crossed.clamp_min(0) + own.sum(1)
