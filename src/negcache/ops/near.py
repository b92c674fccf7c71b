"""The nearest of many centres for points that know one that is near, without a look at them all.

A greedy walk: from centre to centre, each time to the nearest of the ``NEAR`` that lie about it,
until none is nearer. What it costs does not depend on how many centres there are; now and then it
ends at the second nearest. All centres are looked at where they are few, for points that know none,
and for those that end farther off than is usual there.
"""

import torch

from negcache.ops.lloyd import distance, nearest
from negcache.shapes import Float, Int, Tensor

NEAR = 24
"""Centres about each centre that a walk looks at, itself among them."""

DIRECT = 1 << 10
"""So many centres are all looked at."""

AT_ONCE = 1 << 18
"""Numbers of coordinates gathered at a time: what a core's own cache takes in."""


class NearestCentres:
    """Centres, and who is near whom among them: G^2 scores, once.

    Args:
        centres: they stay as they are.
    """

    def __init__(self, centres: Float[Tensor, "G C"]) -> None:
        self.centres, self.half = centres, centres.square().sum(dim=1) / 2
        self.about: Int[Tensor, "G n"] | None = None
        if len(centres) > DIRECT:
            self.about = torch.cat([self._about(some) for some in centres.split(DIRECT)])

    def of(
        self,
        points: Float[Tensor, "n C"],
        start: Int[Tensor, "n"],
        usual: Float[Tensor, "G"] | None = None,
    ) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
        """A centre near each point, never farther than where it starts; the distance to it.

        Args:
            start: a centre that may be near; -1: none is known.
            usual: distance from each centre beyond which it is worth a look at all of them; None:
                at any distance it is not.
        """
        if self.about is None:
            return nearest(points, self.centres)
        labels, known = start.clone(), (start >= 0).nonzero().squeeze(1)
        for some in known.split(max(1, AT_ONCE // (NEAR * points.shape[1]))):
            labels[some] = self._walk(points[some], start[some])
        away = distance(points, self.centres, labels)
        lost = start < 0 if usual is None else (start < 0) | (away > usual[labels])
        if bool(lost.any()):
            labels[lost], away[lost] = nearest(points[lost], self.centres)
        return labels, away

    def _walk(self, points: Float[Tensor, "n C"], at: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        assert self.about is not None
        at, going = at.clone(), torch.arange(len(at), device=at.device)
        while len(going):
            there = self.about[at[going]]
            products = torch.bmm(self.centres[there], points[going, :, None]).squeeze(2)
            best = (self.half[there] - products).argmin(dim=1)
            moved = best > 0  # the first is where it stands
            going = going[moved]
            at[going] = there[moved].gather(1, best[moved, None]).squeeze(1)
        return at

    def _about(self, some: Float[Tensor, "g C"]) -> Int[Tensor, "g n"]:
        """Centres about each of these, itself first."""
        away = torch.addmm(self.half, some, self.centres.T, alpha=-1)
        return away.topk(min(NEAR, len(self.centres)), dim=1, largest=False).indices
