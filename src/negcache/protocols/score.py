"""(queries, items) -> logits."""

from typing import Protocol, runtime_checkable

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
