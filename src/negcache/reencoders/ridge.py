"""An affine map from the coordinates of a full pass to the embeddings of today."""

from typing import Any

import torch

from negcache.errors import InputError
from negcache.functional.nystrom import compose, map_of_basis, mean_cosine, ridge
from negcache.reencoders.identity import started
from negcache.shapes import Float, Tensor

MODES = ("anchored", "compose")


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
