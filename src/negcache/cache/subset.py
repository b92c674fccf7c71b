"""Cached rows of some of the items only: a uniform subset that moves on."""

from collections.abc import Iterator
from typing import Any

import torch

from negcache.cache.listeners import Listeners
from negcache.cache.schedule import rows_due
from negcache.errors import InputError
from negcache.protocols import Listener
from negcache.shapes import Bool, Float, Int, Tensor


class SubsetCache:
    """A uniformly random subset of the corpus, S rows, of which a fraction moves on each step.

    Each row stands for N / S items: draws get weight ``-log(m q) - log(S / N)``, unbiased over
    draw and subset. The rows that entered first leave first (first in, first out), whatever they
    score, and uniformly drawn items take their place: were drawn rows to stay longer, membership
    would depend on the scores and the weight would be wrong. Source: methods of row weights in
    Lindgren et al. 2021, with lambda = S / N.

    Args:
        num_items: N.
        dim: D, as the towers give it.
        size: rows held, S.
        rho: fraction of the rows that moves on each optimizer step.
        dtype: of the rows.
        device: where everything lives.
        seed: of the subset.
    """

    is_live = False

    def __init__(
        self,
        num_items: int,
        dim: int,
        size: int,
        *,
        rho: float = 0.01,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if not 2 <= size <= num_items:
            raise InputError(
                f"a size from 2 to the {num_items} items", f"{size}", "choose one in between"
            )
        if not 0 <= rho <= 1:
            raise InputError("rho between 0 and 1", f"{rho}", "rows per step / size is a fraction")
        self.rho, self.clock, self.num_items = rho, 0, num_items
        self.listeners = Listeners()
        self.generator = torch.Generator().manual_seed(seed)
        self.held = torch.randperm(num_items, generator=self.generator)[:size].to(device)
        self.place = torch.full((num_items,), -1, dtype=torch.int64, device=device)
        self.place[self.held] = torch.arange(size, device=device)
        self.table = torch.zeros(size, dim, dtype=dtype, device=device)
        self.written = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.entered = torch.zeros(size, dtype=torch.int64, device=device)

    @property
    def num_rows(self) -> int:
        return len(self.table)

    @property
    def coverage(self) -> float:
        return self.num_rows / self.num_items

    @property
    def valid(self) -> Bool[Tensor, "S"]:
        return self.written >= 0

    def missing(self) -> Int[Tensor, "R"]:
        return self.held[~self.valid]

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, self.num_rows, size):
            yield first, self.table[first : first + size]

    def rows(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.table.index_select(0, slots)

    def slots(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        return self.place[ids]

    def ids(self, slots: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self.held[slots]

    @torch.no_grad()
    def write(self, ids: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Remember fresh rows of distinct items; items outside the subset are passed over."""
        if rows.shape[1] != self.table.shape[1]:
            raise InputError(
                f"rows of the cache's {self.table.shape[1]} dimensions",
                f"{rows.shape[1]}",
                "give the cache the output dimensions of the item tower",
            )
        slots = self.place[ids]
        kept = slots >= 0
        with self.listeners.change(self, slots[kept]):
            self.table[slots[kept]] = rows[kept].detach().to(self.table.dtype)
            self.written[slots[kept]] = self.clock

    def due(self) -> Int[Tensor, "R"]:
        """Let the rows that entered first go; returns the items that take their place.

        Until they are written they are no negatives. The new items are drawn from all that are
        not staying, which costs a pass over ``place`` (8 N bytes).
        """
        count = rows_due(self.rho, self.num_rows, self.clock)
        order = self.entered * self.num_rows + torch.arange(self.num_rows, device=self.held.device)
        slots = order.topk(count, largest=False).indices
        self.place[self.held[slots]] = -1
        outside = (self.place < 0).nonzero().squeeze(1)
        chosen = torch.randperm(len(outside), generator=self.generator)[:count]
        new = outside[chosen.to(outside.device)]
        with self.listeners.change(self, slots):
            self.held[slots], self.place[new] = new, slots
            self.written[slots], self.entered[slots] = -1, self.clock + 1
        return new

    def tick(self) -> None:
        """One optimizer step has passed."""
        self.clock += 1

    def attach(self, listener: Listener) -> None:
        """Tell it of every change from now on, and keep its state with the cache's own."""
        self.listeners.all.append(listener)

    def state_dict(self) -> dict[str, Any]:
        names = ("held", "table", "written", "entered", "clock")
        state = {name: getattr(self, name) for name in names}
        return state | {"generator": self.generator.get_state()} | self.listeners.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        got, have = tuple(state["table"].shape), tuple(self.table.shape)
        if got != have:
            raise InputError(
                f"cached rows of shape {have}", f"{got}", "build the cache as it was when saved"
            )
        for name in ("held", "table", "written", "entered"):
            getattr(self, name).copy_(state[name])
        self.place.fill_(-1)
        self.place[self.held] = torch.arange(self.num_rows, device=self.held.device)
        self.clock = int(state["clock"])
        self.listeners.load_state_dict(state)
        self.generator.set_state(state["generator"].cpu())
