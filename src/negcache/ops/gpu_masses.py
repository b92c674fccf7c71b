"""Stage one of the exact draw on a GPU: log-masses of blocks by a kernel that keeps no scores.

The kernel, ``compiled.triton_masses``, is tested by Triton's interpreter on a CPU; it has never run
on a GPU. Products are float32, also where torch is told to round the factors of its own to TF32.
"""

from functools import cache
from importlib.util import find_spec

import torch

from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.scored_rows import ScoredRows
from negcache.score import is_product
from negcache.shapes import Float, Tensor

DEVICES = {"cuda"}
"""Where the kernel runs."""

HELD = 1 << 27
"""Numbers of the rows that are read at a time: a bound on memory where rows are put together."""


@torch.no_grad()
def gpu_masses(rows: ScoredRows) -> Float[Tensor, "B blocks"] | None:
    """Log-masses of the blocks of these rows.

    Returns:
        None where there is no kernel for them: elsewhere than on a GPU, without Triton, and where
        the score is another than a scaled inner product of float32 queries.
    """
    queries = rows.queries
    if not (
        queries.device.type in DEVICES
        and queries.dtype == torch.float32
        and is_product(rows.score)
        and has_triton()
    ):
        return None
    from negcache.compiled.triton_masses import Masked, Rows, masses_of_blocks

    blocks = -(-rows.num_rows // BLOCK)
    found, scaled = (
        queries.new_empty(len(queries), blocks),
        (queries * rows.score.scale).contiguous(),
    )
    excluded, whose = rows.exclude.by_id
    starts = torch.arange(blocks + 1, device=queries.device) * BLOCK
    edges, places = torch.searchsorted(excluded, starts), excluded % BLOCK
    size = BLOCK * max(1, HELD // (BLOCK * queries.shape[1]))
    for first, chunk in rows.chunks(size):
        here = slice(first // BLOCK, -(-(first + len(chunk)) // BLOCK))
        bias = rows.bias(slice(first, first + len(chunk))).float()
        masses_of_blocks(
            scaled,
            Rows(chunk.contiguous(), bias),
            Masked(edges[here.start :], whose, places),
            found[:, here],
            BLOCK,
        )
    return found


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None
