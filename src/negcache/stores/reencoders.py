"""What items encoded a while ago look like today, learned from a few encoded then and now."""

from typing import Any

import torch
from torch import nn

from negcache.errors import InputError
from negcache.ops.nystrom import compose, map_of_basis, mean_cosine, ridge
from negcache.shapes import Float, Tensor

MODES = ("anchored", "compose")


class Identity:
    """The coordinates of the last full pass are taken for those of today: a stale cache.

    Attributes:
        map: [C, D], from coordinates to embeddings; empty before ``start``.
    """

    def __init__(self) -> None:
        self.map = torch.empty(0, 0)

    def start(self, basis: Float[Tensor, "D L"]) -> None:
        self.map = map_of_basis(basis)

    def fit(self, stale: Float[Tensor, "s C"], fresh: Float[Tensor, "s D"]) -> float:
        """Learns nothing; all rows are held out."""
        return mean_cosine(self.full(stale), fresh)

    def take_move(self) -> None:
        """Stored coordinates stay as they are."""

    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        return coordinates @ started(self.map)

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return queries.to(self.map.dtype) @ started(self.map).T

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        return coordinates

    def state_dict(self) -> dict[str, Any]:
        return {"map": self.map}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.map = state["map"].clone().to(self.map.device)


class Ridge:
    """Ridge regression on what the map so far does not explain: much penalty means no change.

    Every tenth row is held out; the penalty with the least squared error there is taken, or the
    map so far where none betters it. Source: Monath et al., AISTATS 2023, section 4.

    Args:
        mode: ``anchored``: coordinates stay as encoded and the map is moved to the queries, so that
            errors never add up; ``compose``: as published, each fit moves all coordinates.
        penalties: tried at each fit, in multiples of the number of rows.

    Attributes:
        map: [C, D], from coordinates to embeddings; empty before ``start``.
    """

    def __init__(
        self, mode: str = "anchored", *, penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    ) -> None:
        if mode not in MODES:
            raise InputError(f"a mode of {', '.join(MODES)}", f"{mode!r}", "take anchored")
        if not penalties or min(penalties) <= 0:
            raise InputError("penalties above 0", f"{penalties}", "1e-3 suits unit-norm rows")
        self.mode, self.penalties = mode, penalties
        self.map, self.move = torch.empty(0, 0), torch.empty(0, 0)

    def start(self, basis: Float[Tensor, "D L"]) -> None:
        self.map = map_of_basis(basis)

    def fit(self, stale: Float[Tensor, "s C"], fresh: Float[Tensor, "s D"]) -> float:
        """Add to the map what explains fresh embeddings better; their mean cosine, held out."""
        held = torch.zeros(len(stale), dtype=torch.bool, device=stale.device)
        held[::10] = True
        residual = fresh - self.full(stale)
        steps = [torch.zeros_like(self.map)]
        if not bool(held.all()):
            steps += [ridge(stale[~held], residual[~held], each) for each in self.penalties]
        errors = [(residual[held] - stale[held] @ step).square().sum() for step in steps]
        self.map = self.map + steps[int(torch.stack(errors).argmin())]
        cosine = mean_cosine(self.full(stale[held]), fresh[held])
        if self.mode == "compose":
            self.move, self.map = compose(self.map)
        return cosine

    def take_move(self) -> Float[Tensor, "C K"] | None:
        """What the last fit asks of the stored coordinates, once."""
        move, self.move = self.move, torch.empty(0, 0)
        return move if move.numel() else None

    def full(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n D"]:
        return coordinates @ started(self.map)

    def queries(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return queries.to(self.map.dtype) @ started(self.map).T

    def items(self, coordinates: Float[Tensor, "*n C"]) -> Float[Tensor, "*n C"]:
        return coordinates

    def state_dict(self) -> dict[str, Any]:
        return {"map": self.map}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.map = state["map"].clone().to(self.map.device)


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

    def take_move(self) -> None:
        """Stored coordinates stay as they are."""

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


def started(map: Tensor) -> Tensor:
    """The map itself; an error while there is none."""
    if not map.numel():
        raise InputError(
            "a re-encoder that knows its coordinates",
            "one that was never started",
            "fill the cache first, or call start(basis)",
        )
    return map
