"""Repeated gradients against the true one: bias and spread, without keeping them all dense."""

from dataclasses import dataclass, fields

import torch

from negcache.shapes import Float, Float64, Int, Tensor


@dataclass(frozen=True)
class Moments:
    """Sums of squares of one side; those of several batches add up.

    Args:
        bias: ``||E g - t||^2``, without bias of its own: it may come out negative.
        bias_variance: of that estimate, by the jackknife over the repeats.
        variance: ``E ||g - E g||^2``.
        truth: ``||t||^2``.
        mean: ``||E g||^2``.
        along: ``<E g, t>``.
        cosine: the mean over the repeats of ``cos(g, t)``, times ``||t||^2``.
    """

    bias: float = 0.0
    bias_variance: float = 0.0
    variance: float = 0.0
    truth: float = 0.0
    mean: float = 0.0
    along: float = 0.0
    cosine: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        names = [each.name for each in fields(self)]
        return Moments(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Gradients:
    """Gradients of repeated draws, of which only the rows that are not 0 are kept.

    Args:
        truth: the exact gradient.
        weight: how many rows each stands for.
    """

    def __init__(self, truth: Float64[Tensor, "n D"], weight: Float64[Tensor, "n"]) -> None:
        self.truth, self.weight = truth, weight
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.total = torch.zeros_like(truth)

    @property
    def numbers(self) -> int:
        """Kept."""
        return sum(rows.numel() for _, rows in self.kept)

    def add(self, places: Int[Tensor, "k"], rows: Float[Tensor, "k D"]) -> None:
        """Those of one draw; of places -1 nothing is asked."""
        places, rows = places[places >= 0], rows[places >= 0]
        self.kept.append((places, rows))
        self.total.index_add_(0, places, rows.double())

    def moments(self) -> Moments:
        """Of two repeats or more."""
        count = len(self.kept)
        square, on_total, on_truth = torch.tensor(
            [self._products(*each) for each in self.kept], dtype=torch.float64
        ).unbind(1)
        truth, along = self._dot(self.truth, self.truth), self._dot(self.total, self.truth)
        total = self._dot(self.total, self.total)
        # of the errors r = g - t: squares, their sum, and each with the sum
        errors = square - 2 * on_truth + truth
        whole = total - 2 * count * along + count**2 * truth
        on_whole = on_total - count * on_truth - along + count * truth
        pairs = whole - errors.sum()
        mean_square = (total - square.sum()) / (count * (count - 1))
        without = whole - 2 * on_whole + errors - (errors.sum() - errors)
        jackknife = without / max((count - 1) * (count - 2), 1)
        cosines = on_truth / (square * truth).sqrt().clamp_min(1e-300)
        return Moments(
            float(pairs) / (count * (count - 1)),
            float(jackknife.var(unbiased=False) * (count - 1)),
            float(square.mean() - mean_square),
            truth,
            float(mean_square),
            along / count,
            float(cosines.mean()) * truth,
        )

    def _products(self, places: Tensor, rows: Tensor) -> tuple[float, float, float]:
        rows, weight = rows.double(), self.weight[places]
        others = rows, self.total[places], self.truth[places]
        square, on_total, on_truth = (
            float((weight * (rows * each).sum(dim=1)).sum()) for each in others
        )
        return square, on_total, on_truth

    def _dot(self, one: Tensor, other: Tensor) -> float:
        return float((self.weight * (one * other).sum(dim=1)).sum())
