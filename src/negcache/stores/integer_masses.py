"""Stage one of the exact draw over int8 rows: integer products, summed up while in the cache."""

from functools import cache

import torch
from torch.nn import functional as F

from negcache.ops.cpu_masses import has_numba
from negcache.ops.cumulative import LOG2_E
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.quantized import QuantizedRows, quantize
from negcache.ops.scored_rows import ScoredRows
from negcache.score import is_product
from negcache.shapes import Float, Tensor
from negcache.stores.row_memory import QuantizedChunks

ROWS = 1 << 17
"""Rows that are read at a time, about."""

DOTS = 1 << 19
"""Products held at a time, 4 bytes each: what stays in a cache while it is summed up."""


@torch.no_grad()
def integer_masses(chunks: QuantizedChunks, rows: ScoredRows) -> Float[Tensor, "B blocks"] | None:
    """Log-masses of the blocks of rows that ``chunks`` reads.

    Args:
        chunks: of the same rows as ``rows``.
        rows: their queries rounded, as ``scored_rows`` has them.

    Returns:
        None where there is no such product or no compiled pass over it, or where the score is
        another than a scaled inner product.
    """
    score, queries = rows.score, rows.queries
    if not (
        is_product(score)
        and queries.dtype == torch.float32
        and has_integer_products(queries.device)
    ):
        return None
    found = queries.new_empty(len(queries), -(-rows.num_rows // BLOCK))
    product = _Product(rows, score.scale * LOG2_E)
    for first, block in chunks(product.at_once):
        blocks = slice(first // BLOCK, -(-(first + len(block)) // BLOCK))
        found[:, blocks] = product.sum_up(first, block).T
    return found.div_(LOG2_E)


class _Product:
    """Sums up the products of some queries with one chunk of rows after the other.

    Args:
        rows: what is known of them, and the queries.
        slope: base-2 logits of inner products.
    """

    def __init__(self, rows: ScoredRows, slope: Float[Tensor, ""]) -> None:
        from negcache.compiled.block_masses import Masked, masses_of_blocks

        self.rows, self.masked, self.masses_of_blocks = rows, Masked, masses_of_blocks
        codes, scales = quantize(rows.queries)
        self.columns, self.slopes = codes.T.contiguous(), (scales * slope).numpy()
        self.step = BLOCK * max(1, DOTS // (BLOCK * max(len(codes), 1)))
        self.at_once = self.step * max(1, ROWS // self.step)
        self.memory = torch.empty(self.step, len(codes), dtype=torch.int32)
        self.all_alike = rows.log_weights is None and bool(rows.valid.all())
        self.no_bias = torch.zeros(self.at_once)

    def sum_up(self, first: int, block: QuantizedRows) -> Float[Tensor, "blocks B"]:
        """Base-2 log-masses of the rows from ``first`` on, a multiple of the step."""
        bias, short = self._bias(slice(first, first + len(block))), -len(block) % BLOCK
        if short:  # the last chunk: whole blocks only
            bias = F.pad(bias, (0, short), value=-torch.inf)
            block = QuantizedRows(
                F.pad(block.codes, (0, 0, 0, short)), F.pad(block.scales, (0, short))
            )
        found = torch.empty(len(block) // BLOCK, len(self.slopes))
        parts = [each.split(self.step) for each in (block.codes, block.scales, bias)]
        masses = found.split(self.step // BLOCK)
        for turn, (codes, scales, biases, out) in enumerate(zip(*parts, masses, strict=True)):
            memory = self.memory if len(codes) == self.step else self.memory[: len(codes)]
            dots = torch._int_mm(codes, self.columns, out=memory)  # type: ignore[attr-defined]
            start = first + turn * self.step
            queries, places = self.rows.exclude.between(start, start + len(codes))
            masked = self.masked(places.numpy(), queries.numpy())
            terms = (self.slopes, scales.numpy(), biases.numpy())
            self.masses_of_blocks(dots.numpy(), masked, *terms, out.numpy())
        return found

    def _bias(self, slots: slice) -> Float[Tensor, "c"]:
        """Base-2 weights of the rows; -inf where none may stand."""
        if self.all_alike:
            return self.no_bias[: slots.stop - slots.start]
        return self.rows.bias(slots).float().mul_(LOG2_E)


@cache
def has_integer_products(device: torch.device) -> bool:
    """Whether the processor multiplies int8 numbers by itself, and numba is there for the rest.

    Processors without such instructions may add pairs of products up in 16 bits, and saturate.
    """
    able = torch.cpu.get_capabilities()
    fast = any(able.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return device.type == "cpu" and fast and has_numba()
