"""Log-masses of blocks of rows, from float rows on a GPU: scores never leave the chip.

In the manner of FlashSampling (Ruiz et al., arXiv 2603.15854): products are worked out tile by tile
and reduced where they stand. There what a tile leaves is its maximum under noise; here it is the
log-mass of a block, so that the noise is that of every other device. The twin is
``ops.two_stage.mass_of_blocks_``. It compiles for GPUs and was interpreted on a CPU; it has never
run on a GPU, so nothing is said of its speed.
"""

import inspect
from typing import Any, NamedTuple

import torch

from negcache.errors import InputError
from negcache.shapes import Float, Int, Tensor

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise InputError("Triton for masses on a GPU", str(error), "pip install triton") from error

QUERIES, DIMS, WARPS = tl.constexpr(64), tl.constexpr(16), 8
"""Queries of a tile, dimensions that it takes in at a time, warps that work on it.

As they are no register is spilled, whatever the rows are; as yet they are tuned to no GPU.
"""

NOTHING, FLOOR = tl.constexpr(float("-inf")), tl.constexpr(-1e38)
"""Log of no mass; what a block without mass is compared with, since -inf - -inf is nothing."""


class Rows(NamedTuple):
    """Consecutive rows from the beginning of a block on.

    Args:
        table: contiguous.
        bias: added to the score of each row; -inf where none may stand.
    """

    table: Float[Tensor, "S D"]
    bias: Float[Tensor, "S"]


class Masked(NamedTuple):
    """(query, row) pairs that may not count, block by block.

    Args:
        edges: the pairs of block i are those from ``edges[i]`` to ``edges[i + 1]``.
        queries: of each pair.
        places: of each pair's row within its block.
    """

    edges: Int[Tensor, "_"]
    queries: Int[Tensor, "E"]
    places: Int[Tensor, "E"]


class Sizes(NamedTuple):
    """B, S and D; and how far apart two queries' masses are."""

    queries: int
    rows: int
    dims: int
    stride: int


def _compiled(function: Any) -> Any:
    """Where type checks are wrapped around it, what is inside them."""
    return triton.jit(inspect.unwrap(function))


@_compiled
def _products(queries, table, query, row, sizes):
    """Inner products of these queries and rows; float32 whatever the rows are."""
    found = tl.zeros((query.shape[0], row.shape[0]), tl.float32)
    asked, there = query < sizes.queries, row < sizes.rows
    for first in range(0, sizes.dims, DIMS):
        dim = first + tl.arange(0, DIMS)
        inside = dim < sizes.dims
        left = tl.load(
            queries + query[:, None] * sizes.dims + dim[None, :],
            mask=asked[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            table + row[None, :] * sizes.dims + dim[:, None],
            mask=there[None, :] & inside[:, None],
            other=0.0,
        )
        found = tl.dot(left, right.to(tl.float32), found, input_precision="ieee")
    return found


@_compiled
def _masses(queries, rows, masked, out, sizes, block: tl.constexpr):
    """One tile: the log-masses of one block of rows for ``QUERIES`` queries.

    The tiles of one block follow each other, so that they may find its rows in the cache.
    """
    tiles = tl.cdiv(sizes.queries, QUERIES)
    here = (tl.program_id(0) // tiles).to(tl.int64)
    query = (tl.program_id(0) % tiles).to(tl.int64) * QUERIES + tl.arange(0, QUERIES)
    place = tl.arange(0, block)
    row = here * block + place
    logits = _products(queries, rows.table, query, row, sizes)
    bias = tl.load(rows.bias + row, mask=row < sizes.rows, other=NOTHING)[None, :]
    logits = tl.where(bias == NOTHING, NOTHING, logits + bias)
    for pair in range(tl.load(masked.edges + here), tl.load(masked.edges + here + 1)):
        whose, which = tl.load(masked.queries + pair), tl.load(masked.places + pair)
        logits = tl.where((query == whose)[:, None] & (place == which)[None, :], NOTHING, logits)
    peak = tl.maximum(tl.max(logits, 1), FLOOR)
    mass = tl.sum(tl.exp(logits - peak[:, None]), 1)
    tl.store(out + query * sizes.stride + here, peak + tl.log(mass), mask=query < sizes.queries)


def masses_of_blocks(
    queries: Float[Tensor, "B D"],
    rows: Rows,
    masked: Masked,
    out: Float[Tensor, "B blocks"],
    block: int,
) -> None:
    """logsumexp of ``<query, row> + bias`` over each block of rows.

    Args:
        queries: float32, contiguous; with the scale of the score.
        masked: of these rows.
        out: float32 to write to, blocks side by side; -inf where nothing counts.
        block: rows of a block, a power of two.
    """
    sizes = Sizes(len(queries), len(rows.table), queries.shape[1], out.stride(0))
    tiles = triton.cdiv(len(queries), QUERIES.value) * out.shape[1]
    with torch.cuda.device_of(queries):
        _masses[(tiles,)](queries, rows, masked, out, sizes, block, num_warps=WARPS)
