"""Are the weights honest? The sums that they estimate are known.

Weights that say how many items each draw stands for make ``sum_j exp(w_j) f(y_j)`` unbiased for
``sum_y f(y)``, whatever f. For the partition function itself, f = exp(s), a test would have to wait
for the rarest peaks; here f is the softmax with its peaks cut, ``min(p, t)``, at such a height that
no single draw decides: a few times the chance that the draws give the item, where that is known.
"""

import math

import torch

from negcache.diagnosis.exact import CUTS, Exact
from negcache.diagnosis.laws import Distance, Law
from negcache.messages import Draw
from negcache.shapes import Float, Float64, Tensor

DECIDES = 0.1
"""A draw may come to so much of the sum."""


class Honesty:
    """Sums up what repeated draws stand for.

    Args:
        truth: of the queries.
        first: a draw that is not counted; it says how large weights are, where no law does.
        law: of the draws, with its distance from the softmax; None: it is not known.
    """

    def __init__(self, truth: Exact, first: Draw, law: tuple[Law, Distance] | None) -> None:
        self.truth, self.ratios = truth, list[float]()
        self.law = law[0] if law is not None and law[0].is_settled else None
        self.asks = truth.log_z > -torch.inf
        if law is not None and self.law is not None:
            self.log_sum = law[1].capped.log()
        else:
            self.log_height, self.log_sum = _even_cut(truth, first)

    def add(self, draw: Draw, logits: Float[Tensor, "B k"]) -> None:
        """One more draw, and fresh scores in its columns."""
        log_p = logits.double() - self.truth.log_z[:, None]
        log_f = log_p.minimum(self._heights(draw))
        terms = draw.weighted(log_f.to(draw.weight.dtype))
        found = torch.logsumexp(terms.double(), dim=1) - self.log_sum
        self.ratios.append(float(found.exp()[self.asks].mean()))

    def _heights(self, draw: Draw) -> Float64[Tensor, "*b k"]:
        if self.law is None:
            return self.log_height
        log_caps = self.law.log_caps(self.law.log_q(draw.ids))
        return log_caps if draw.columns is None else log_caps.gather(1, draw.columns)


def _even_cut(truth: Exact, first: Draw) -> tuple[Tensor, Tensor]:
    """The highest cut at which the largest weight does not decide; none where there is no such.

    Returns:
        log of the height [B, 1], and of the sum under it [B].
    """
    weight = first.weight[first.weight > -torch.inf]
    largest = float(weight.max().exp()) if len(weight) else 1.0
    heights = 4.0 ** -torch.arange(CUTS, dtype=torch.float64, device=truth.cut.device)
    fits = largest * heights <= DECIDES * truth.cut
    choice = (fits.cumsum(dim=1) == 0).sum(dim=1, keepdim=True) % CUTS
    return heights.log()[choice], truth.cut.gather(1, choice).squeeze(1).log()


def p_value_of_one(ratios: list[float]) -> float:
    """Whether the mean of independent numbers is 1: normal, two-sided; NaN: they do not tell."""
    found = torch.tensor(ratios, dtype=torch.float64)
    if len(found) < 2:
        return math.nan
    away = abs(float(found.mean()) - 1)
    error = float(found.std()) / len(found) ** 0.5
    if error < 1e-9:  # the same each time
        return 1.0 if away < 1e-5 else 0.0
    return math.erfc(away / error / 2**0.5)
