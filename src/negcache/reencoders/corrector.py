"""A small network that corrects stale embeddings."""

from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.functional.nystrom import map_of_basis, mean_cosine
from negcache.reencoders.identity import started
from negcache.shapes import Float, Tensor


class Corrector:
    """``e~ + c(e~)`` with a two-layer network c that starts as zero: a learned corrector.

    Trained on squared error with Adam at each fit, on from where the last one ended; every tenth
    row is held out. Not linear, so items are scored at full dimension. Source: Monath et al.,
    ICML 2024; width, steps and learning rate are ours.

    Args:
        width: hidden units.
        steps: of Adam at each fit, each on ``batch_size`` rows drawn anew.
        learning_rate: of Adam.
        seed: of the first weights and the batches.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        steps: int = 200,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        if min(width, steps, batch_size) < 1:
            raise InputError(
                "width, steps and batch_size of 1 or more",
                f"{width}, {steps} and {batch_size}",
                "256, 200 and 256 suit a few thousand rows",
            )
        self.width, self.steps, self.batch_size = width, steps, batch_size
        self.learning_rate = learning_rate
        self.generator = torch.Generator().manual_seed(seed)
        self.map, self.net = torch.empty(0, 0), nn.Sequential()

    def start(self, basis: Float[Tensor, "D L"]) -> None:
        self.map = map_of_basis(basis)
        self.net = self._build()

    def fit(self, stale: Float[Tensor, "s C"], fresh: Float[Tensor, "s D"]) -> float:
        """A fixed number of Adam steps; the mean cosine of the rows held out."""
        held = torch.zeros(len(stale), dtype=torch.bool, device=stale.device)
        held[::10] = True
        if not bool(held.all()):
            self._train((stale @ started(self.map))[~held], fresh[~held])
        return mean_cosine(self.full(stale[held]), fresh[held])

    @torch.no_grad()
    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        seen = coordinates @ started(self.map)
        return seen + self.net(seen)

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return queries.to(self.map.dtype)

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        return self.full(coordinates)

    def state_dict(self) -> dict[str, Any]:
        own = {"map": self.map, "generator": self.generator.get_state()}
        return own | {"net": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.map = state["map"].clone().to(self.map.device)
        if self.map.numel():
            self.net = self._build()
            self.net.load_state_dict(state["net"])
        self.generator.set_state(state["generator"].cpu())

    @torch.inference_mode(False)
    def _build(self) -> nn.Sequential:
        """Two layers, the last one zero; on the device and in the dtype of the map.

        They can be trained also where the cache is filled in inference mode.
        """
        dim, dtype = self.map.shape[1], self.map.dtype
        first = nn.Linear(dim, self.width, device="meta", dtype=dtype)
        last = nn.Linear(self.width, dim, device="meta", dtype=dtype)
        net = nn.Sequential(first, nn.GELU(), last).to_empty(device=self.map.device)
        with torch.no_grad():
            weight = torch.randn(self.width, dim, generator=self.generator, dtype=torch.float64)
            first.weight.copy_(weight / dim**0.5)
            for zero in (first.bias, last.weight, last.bias):
                zero.zero_()
        return net

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _train(self, seen: Float[Tensor, "s D"], fresh: Float[Tensor, "s D"]) -> None:
        optimizer = torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)
        for _ in range(self.steps):
            some = torch.randint(len(seen), (self.batch_size,), generator=self.generator)
            some = some.to(seen.device)
            error = (fresh[some] - seen[some] - self.net(seen[some])).square().sum(dim=1).mean()
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
