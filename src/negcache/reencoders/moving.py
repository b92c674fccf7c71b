"""Re-encoders that would rather move the stored coordinates than their own map."""

from typing import Protocol, runtime_checkable

from negcache.protocols import Reencoder
from negcache.shapes import Float, Tensor


@runtime_checkable
class Moving(Reencoder, Protocol):
    """A re-encoder after whose fit all stored coordinates may have to be moved."""

    def take_move(self) -> Float[Tensor, "C K"] | None:
        """Stored coordinates z must become ``z @ move``, once; None: they stay as they are."""
        ...
