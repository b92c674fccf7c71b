"""How popular items are as positives, counted as the batches come."""

from typing import Any

import torch

from negcache.shapes import Float64, Int, Tensor


class SeenPositives:
    """The share of every item among positives, from those that came so far.

    Absolute discounting, interpolated with equal shares: ``(count - d) / total``, and what the
    discounts free is shared by all items, ``d = n1 / (n1 + 2 n2)`` with n1 and n2 the numbers of
    items that came once and twice. While every item is new all shares are alike; an item that keeps
    coming has its own within a few batches. Source: Ney, Essen & Kneser 1994.

    Args:
        num_items: N.

    Examples:
        >>> seen = SeenPositives(4)
        >>> seen.add(torch.tensor([2, 2, 2, 0]))
        >>> seen.log_shares(torch.tensor([2, 0, 1])).exp()
        tensor([0.6375, 0.1375, 0.1125], dtype=torch.float64)
    """

    def __init__(self, num_items: int) -> None:
        self.counts = torch.zeros(num_items, dtype=torch.int32)
        self.total = self.distinct = self.once = self.twice = 0

    def add(self, ids: Int[Tensor, "P"]) -> None:
        """These have come, each as often as it is there."""
        ids, times = ids.to(self.counts.device).unique(return_counts=True)
        before = self.counts[ids]
        after = before + times.to(before.dtype)
        self.counts[ids] = after
        self.total += int(times.sum())
        self.distinct += int((before == 0).sum())
        self.once += int((after == 1).sum()) - int((before == 1).sum())
        self.twice += int((after == 2).sum()) - int((before == 2).sum())

    def log_shares(self, ids: Int[Tensor, "M"]) -> Float64[Tensor, "M"]:
        """log of the share of each; every item has one."""
        even = 1 / len(self.counts)
        if not self.total:
            return torch.full(ids.shape, even, dtype=torch.float64, device=ids.device).log()
        discount = self.once / max(self.once + 2 * self.twice, 1)
        discount = min(max(discount, 0.1), 0.9) if self.distinct < self.total else 1.0
        own = (self.counts[ids].double() - discount).clamp_min(0) / self.total
        return (own + discount * self.distinct / self.total * even).log()

    def state_dict(self) -> dict[str, Any]:
        names = ("counts", "total", "distinct", "once", "twice")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.copy_(state["counts"])
        for name in ("total", "distinct", "once", "twice"):
            setattr(self, name, int(state[name]))
