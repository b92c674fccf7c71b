"""Where the rows of a table are kept, and as what numbers: in memory."""

from collections.abc import Callable, Iterator

import torch

from negcache.ops.quantized import QuantizedRows, quantize
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_finite

QuantizedChunks = Callable[[int], Iterator[tuple[int, QuantizedRows]]]
"""size -> consecutive blocks of int8 rows with the slot of their first row."""


class FloatRows:
    """Rows as they are.

    Args:
        size: S.
        dim: D.
        dtype: of the rows.
        device: where they live.

    Attributes:
        stored: [S, D].
        quantized: None; see ``Int8Rows``.
    """

    quantized = None

    def __init__(self, size: int, dim: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.stored = torch.zeros(size, dim, dtype=dtype, device=device)

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        for first in range(0, len(self.stored), size):
            yield first, self.stored[first : first + size]

    def read(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return self.stored.index_select(0, slots)  # on a CPU 4 x faster than [slots]

    def write(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        self.stored[slots] = rows.to(self.stored.dtype)

    def part(self, rows: slice) -> dict[str, Tensor]:
        """What is kept of these rows, by name."""
        return {"embeddings": self.stored[rows]}

    def load_part(self, rows: slice, saved: dict[str, Tensor]) -> None:
        self.stored[rows] = saved["embeddings"]


class Int8Rows:
    """Rows rounded to int8 numbers, 127 of which are the largest of each row.

    An entry is off by ``max |row| / 254`` at most. Arguments are those of ``FloatRows``.

    Attributes:
        stored: int8 [S, D].
        scales: float32 [S].
    """

    def __init__(
        self, size: int, dim: int, _dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.stored = torch.zeros(size, dim, dtype=torch.int8, device=device)
        self.scales = torch.zeros(size, device=device)

    def quantized(self, size: int) -> Iterator[tuple[int, QuantizedRows]]:
        """Consecutive blocks of rows as they are kept, each with the slot of its first."""
        for first in range(0, len(self.stored), size):
            some = slice(first, first + size)
            yield first, QuantizedRows(self.stored[some], self.scales[some])

    def chunks(self, size: int) -> Iterator[tuple[int, Float[Tensor, "c D"]]]:
        return ((first, block.rows()) for first, block in self.quantized(size))

    def read(self, slots: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        return QuantizedRows(self.stored.index_select(0, slots), self.scales[slots]).rows()

    def write(self, slots: Int[Tensor, "M"], rows: Float[Tensor, "M D"]) -> None:
        """Raises InputError for rows that are not finite: they have no largest entry."""
        self.stored[slots], self.scales[slots] = quantize(check_finite(rows.float(), slots))

    def part(self, rows: slice) -> dict[str, Tensor]:
        """What is kept of these rows, by name."""
        return {"codes": self.stored[rows], "scales": self.scales[rows]}

    def load_part(self, rows: slice, saved: dict[str, Tensor]) -> None:
        self.stored[rows], self.scales[rows] = saved["codes"], saved["scales"]
