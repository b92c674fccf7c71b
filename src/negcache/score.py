"""The one score of a program: shared by sampler, estimator, search and evaluation."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

from negcache.errors import InputError
from negcache.shapes import Float, Tensor


@runtime_checkable
class Score(Protocol):
    """(queries, items) -> logits. Holds the scale; one object for the whole program."""

    @property
    def scale(self) -> Tensor: ...

    def embed(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        """What a tower's output becomes before it is scored or cached (unit norm, or itself)."""
        ...

    def __call__(
        self,
        queries: Float[Tensor, "B D"],
        items: Float[Tensor, "M D"],
        out: Float[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        """Every query against every item; into ``out``, without gradient, where that is given."""
        ...

    def paired(
        self, queries: Float[Tensor, "B D"], items: Float[Tensor, "B m D"]
    ) -> Float[Tensor, "B m"]:
        """Each query against its own items."""
        ...


def at_least_float32(rows: Tensor) -> Tensor:
    """Scores and partition functions never live in half precision."""
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


class DotScore(nn.Module):
    """Scaled inner product: ``logits = <query, item> / temperature``.

    Args:
        temperature: divides the inner product; 0.05 is a scale of 20.
        learn_temperature: train the temperature (in log space).
        normalize: embeddings are brought to unit norm first, so logits lie in +-1/temperature.
        absolute: the absolute softmax of Blanc & Rendle (2018), p ~ exp(|s|).

    Examples:
        >>> score = DotScore(temperature=0.5)
        >>> score(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[2.0, 0.0]]
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        learn_temperature: bool = False,
        normalize: bool = True,
        absolute: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise InputError("temperature > 0", f"{temperature}", "0.05 suits unit-norm embeddings")
        log_scale = -torch.tensor(float(temperature), dtype=torch.float64).log().float()
        self.log_scale = nn.Parameter(log_scale[None], learn_temperature)  # FSDP2 takes no scalar
        self.normalize, self.absolute = normalize, absolute

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, a scalar that carries gradient when it is learned."""
        return self.log_scale.exp().squeeze(0)

    def embed(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        """A tower's output as it is scored and cached: float32 at least, unit norm if asked."""
        rows = at_least_float32(rows)
        return F.normalize(rows, dim=-1) if self.normalize else rows

    def forward(
        self,
        queries: Float[Tensor, "B D"],
        items: Float[Tensor, "M D"],
        out: Float[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        """Every query against every item; both as ``embed`` made them.

        Args:
            out: memory to write the logits to, as in torch; without gradient only.
        """
        with torch.autocast(queries.device.type, enabled=False):
            columns = items.to(queries.dtype).T
            return self._bend(torch.mm(queries * self.scale, columns, out=out))

    def paired(
        self, queries: Float[Tensor, "B D"], items: Float[Tensor, "B m D"]
    ) -> Float[Tensor, "B m"]:
        """Each query against its own items."""
        with torch.autocast(queries.device.type, enabled=False):
            scaled = (queries * self.scale).unsqueeze(-1)
            return self._bend((items.to(queries.dtype) @ scaled).squeeze(-1))

    def _bend(self, logits: Tensor) -> Tensor:
        return logits.abs() if self.absolute else logits


def is_product(score: Score) -> bool:
    """Whether logits are ``scale <query, item>``, and nothing else."""
    return isinstance(score, DotScore) and not score.absolute


class Reshaped:
    """A function of another score's logits, as the score that a sampler draws by.

    Args:
        score: whose logits they are.
        reshape: logits -> logits.
    """

    def __init__(self, score: Score, reshape: Callable[[Tensor], Tensor]) -> None:
        self.score, self.reshape = score, reshape

    @property
    def scale(self) -> Tensor:
        return self.score.scale

    def embed(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return self.score.embed(rows)

    def __call__(
        self,
        queries: Float[Tensor, "B D"],
        items: Float[Tensor, "M D"],
        out: Float[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B M"]:
        logits = self.reshape(self.score(queries, items, out=out))
        return logits if out is None else out.copy_(logits)

    def paired(
        self, queries: Float[Tensor, "B D"], items: Float[Tensor, "B m D"]
    ) -> Float[Tensor, "B m"]:
        return self.reshape(self.score.paired(queries, items))
