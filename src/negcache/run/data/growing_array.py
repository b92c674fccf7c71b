"""NumPy files that are written piece by piece, over as many calls as it takes."""

import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from negcache.run.atomic import atomic_write


class GrowingArray:
    """A one-dimensional .npy file written piece by piece; its header leaves room to grow.

    Args:
        path: of the file; made if it is not there.
        kind: of its numbers.
        length: numbers of those that are there to keep.
    """

    def __init__(self, path: Path, kind: np.dtype, length: int) -> None:
        self.stream: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self.kind, self.length = kind, length
        self._write_header()
        self.stream.seek(self.stream.tell() + length * kind.itemsize)
        self.stream.truncate()

    def append(self, values: np.ndarray) -> None:
        self.stream.write(values.astype(self.kind, copy=False).tobytes())
        self.length += len(values)

    def sync(self) -> None:
        """What was appended is on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def _write_header(self) -> None:
        self.stream.seek(0)
        header = {"descr": self.kind.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def close(self) -> None:
        self._write_header()
        self.stream.close()


def say_written(path: Path, told: dict[str, int], *arrays: GrowingArray) -> None:
    """Keep in a JSON file how far arrays are, once what they hold is on the disk."""
    for array in arrays:
        array.sync()
    with atomic_write(path) as part:
        part.write_text(json.dumps(told), "utf-8")
