"""Random frequencies: one fixed draw that queries and items share, and what it may be used on."""

from typing import Any

import torch

from negcache.errors import InputError
from negcache.score import at_least_float32
from negcache.shapes import Float, Float64, Tensor
from negcache.validation import check_finite, check_room

NORM_TOLERANCE = 1e-2
"""More than rounding to bfloat16 or int8 does to a norm of 1."""

LARGEST_NU = 40.0
"""Beyond it the least kernel, exp(-2 nu), is lost in float32."""


def gaussian(dim: int, count: int, nu: float, seed: int) -> Float64[Tensor, "R D"]:
    """Rows ~ N(0, nu I), independent."""
    generator = torch.Generator().manual_seed(seed)
    return nu**0.5 * torch.randn(count, dim, generator=generator, dtype=torch.float64)


def orthogonal_blocks(dim: int, count: int, nu: float, seed: int) -> Float64[Tensor, "R D"]:
    """Rows ~ N(0, nu I) each, orthogonal to the others of their block of D.

    Haar-random orthogonal matrices; row norms are independent chi(D) times sqrt(nu), without which
    the features would be biased. Source: Yu et al., NeurIPS 2016.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-count // dim)
    drawn = torch.randn(blocks, dim, dim, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(drawn)
    signs = triangle.diagonal(dim1=1, dim2=2).sign()  # without them the law depends on LAPACK's
    directions = (basis * signs[:, None]).flatten(0, 1)[:count]
    norms = torch.randn(count, dim, generator=generator, dtype=torch.float64).norm(dim=1)
    return nu**0.5 * norms[:, None] * directions


def project(
    rows: Float[Tensor, "M D"], frequencies: Float64[Tensor, "R D"]
) -> Float[Tensor, "M R"]:
    """<w_r, u> in the precision of the rows, float32 at least."""
    rows = at_least_float32(rows)
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ frequencies.to(rows).T


def check_settings(dim: int, num_frequencies: int, nu: float) -> None:
    """Refuse what a constructor cannot use."""
    if dim < 1:
        raise InputError("dim >= 1", f"{dim}", "pass the D of the embeddings")
    if num_frequencies < 1:
        raise InputError(
            "num_frequencies >= 1", f"{num_frequencies}", "more frequencies, less variance"
        )
    wanted = 8 * dim * num_frequencies
    check_room(wanted, torch.device("cpu"), f"{num_frequencies} frequencies", "take fewer")
    if not 0 < nu <= LARGEST_NU:
        raise InputError(
            f"nu above 0 and at most {LARGEST_NU}",
            f"{nu}",
            "take one below the scale of the score, which is 1 / temperature; 4 is usual",
        )


def check_dim(dim: int, frequencies: Float64[Tensor, "R D"]) -> None:
    """Refuse embeddings of another size than the frequencies."""
    if dim != frequencies.shape[1]:
        raise InputError(
            f"embeddings of D = {frequencies.shape[1]}, as the kernel was built",
            f"D = {dim}",
            "build the kernel with the D of the embeddings",
        )


def check_rows(rows: Float[Tensor, "M D"], scale: Float[Tensor, ""], nu: float) -> None:
    """Refuse rows that are not of unit norm, and nu above the scale.

    Norms may differ from 1 by ``NORM_TOLERANCE``. A row of zeros has no direction to bring to that,
    such as the padding of an embedding: its share of a sum is off, which makes draws less apt, and
    their chances are still those reported.
    """
    check_finite(rows)
    norms = at_least_float32(rows).norm(dim=1)
    off = (norms - 1).abs().where(norms > 0, 0.0)
    if len(rows) and off.max() > NORM_TOLERANCE:
        raise InputError(
            "embeddings of unit norm",
            f"a norm of {float(norms[off.argmax()]):.4g}",
            "normalise: DotScore(normalize=True)",
        )
    scale = scale.detach()
    if nu > float(scale) * (1 + 1e-5):  # a scale of 20 is 19.99999 in float32
        raise InputError(
            f"nu <= scale, which is {float(scale):.4g}",
            f"nu = {nu:.4g}",
            "nu above the scale draws sharper than the softmax itself: lower nu",
        )


def loaded(
    state: dict[str, Any], frequencies: Float64[Tensor, "R D"], nu: float
) -> Float64[Tensor, "R D"]:
    """The frequencies of a saved state; a state of other settings is refused."""
    saved, shape = state.get("frequencies"), tuple(frequencies.shape)
    found = None if saved is None else tuple(saved.shape)
    if saved is None or found != shape or state.get("nu") != nu:
        raise InputError(
            f"a state with frequencies of shape {shape} at nu = {nu:.4g}",
            f"shape {found} at nu = {state.get('nu')}",
            "build the kernel with the settings it was saved with",
        )
    return saved.to(frequencies).clone()
