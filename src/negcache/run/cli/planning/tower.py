"""The size of a tower: parameters exactly, work and kept activations by rule."""

from typing import NamedTuple


class PerText(NamedTuple):
    """A cost of one text: ``fixed``, and ``each`` for every token."""

    fixed: int
    each: int

    def of(self, tokens: float) -> float:
        """The cost of a text of so many tokens."""
        return self.fixed + self.each * tokens


class TowerSize(NamedTuple):
    """One tower.

    Args:
        parameters: numbers in all; float32.
        trained: numbers that get gradient.
        tensors: trained parameter tensors.
        dim: output dimensions.
        forward: multiply-adds of matrix products in a forward pass.
        trained_forward: those among them with a gradient of their own.
        kept: floats kept for the backward pass, an estimate from below.
        recomputes: whether the forward pass is done again in the backward pass.
    """

    parameters: int
    trained: int
    tensors: int
    dim: int
    forward: PerText
    trained_forward: PerText
    kept: PerText
    recomputes: bool = False


def static_size(vocab_size: int, dim: int, width: int | None = None) -> TowerSize:
    """A ``StaticTower``: a table [vocab, width], a linear map and its bias.

    Kept are, per token, its id and its text's number (int64 each); per text the mean, the map's
    output, and its unit-norm form.
    """
    width = width or dim
    parameters = vocab_size * width + width * dim + dim
    work = PerText(width * dim, 0)
    return TowerSize(parameters, parameters, 3, dim, work, work, PerText(width + 2 * dim, 4))
