"""The sparse text format of the Extreme Classification Repository.

A header ``points features labels``, then a line a point: ``l1,l2 f1:v1 f2:v2``, counted from 0.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.run.atomic import atomic_write
from negcache.run.data.labels import LabelledPoints, SparseRows
from negcache.run.data.reading import line_fault, lines_of, reading, text_of

AS_XC: dict[str, Any] = {"dtype": np.float32, "multilabel": True, "zero_based": True}
"""How the body of a file is read."""

LIKE = "lines like `3,17 0:0.5 42:1` with ascending features"
_COUNT = re.compile(rb"[0-9]{1,18}")
_FEATURE = rb"[0-9]{1,10}:[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LABELS = rb"[0-9]{1,10}(?:,[0-9]{1,10})*"
_LINE = re.compile(rb"(?:%b|%b)?(?:[ \t]+%b)*[ \t]*\r?\n?" % (_LABELS, _FEATURE, _FEATURE))


class XCTask(NamedTuple):
    """Files that speak of the same features and labels.

    Attributes:
        splits: the points of ``train``, and of ``dev`` and ``test`` where there are.
        label_names: a name for each label; their numbers where there is no ``labels.txt``.
    """

    splits: Mapping[str, LabelledPoints]
    label_names: Sequence[str]


def open_xc(folder: Path | str) -> XCTask:
    """Read ``train.txt``, and ``dev.txt``, ``test.txt`` and ``labels.txt`` where there are.

    Raises:
        InputError: no train.txt, a file disagrees with its header, or two with each other.
    """
    folder = Path(folder)
    files = {split: folder / f"{split}.txt" for split in ("train", "dev", "test")}
    splits = {
        split: read_xc(path)
        for split, path in files.items()
        if os.path.lexists(path) or split == "train"
    }
    train = splits["train"]
    for split, points in splits.items():
        if (points.num_features, points.num_labels) != (train.num_features, train.num_labels):
            raise InputError(
                f"{train.num_features} features and {train.num_labels} labels in {files[split]}, "
                "as in train.txt",
                f"{points.num_features} and {points.num_labels}",
                "number features and labels alike in all files",
            )
    return XCTask(splits, _label_names(folder / "labels.txt", train.num_labels))


def read_xc(path: Path | str) -> LabelledPoints:
    """Read one file and check it against its header.

    Raises:
        InputError: no such file, a malformed line, other counts than the header's, an index out of
            range, or values that are not finite.
    """
    path = Path(path)
    lines = lines_of(path)
    header = _header(path, next(lines, (1, b""))[1])
    with reading(path, LIKE, "correct the file"):
        rows, labels = load_svmlight_file(_Strict(path, lines), **AS_XC)
    return _checked(path, header, rows, labels)


class _Strict:
    """The lines of a file for scikit-learn, which would take ``0_5``, comments and more.

    Args:
        path: for errors.
        lines: by number.
    """

    def __init__(self, path: Path, lines: Iterator[tuple[int, bytes]]) -> None:
        self.path, self.lines = path, lines

    def __iter__(self) -> Iterator[bytes]:
        for number, line in self.lines:
            if not _LINE.fullmatch(line):
                raise line_fault(self.path, number, repr(line[:60])[1:], LIKE)
            yield line

    def read(self) -> bytes:  # which scikit-learn looks for, and does not call
        raise NotImplementedError


def write_xc(path: Path | str, features: Any, labels: Any) -> Path:
    """Write one file.

    Args:
        path: the file to write.
        features: a SciPy sparse matrix [points, features].
        labels: a SciPy sparse matrix [points, labels]; where it is not 0 the point has the label.
    """
    path = Path(path)
    with atomic_write(path) as part, part.open("wb") as stream:
        stream.write(f"{features.shape[0]} {features.shape[1]} {labels.shape[1]}\n".encode())
        dump_svmlight_file(features, labels, stream, multilabel=True, zero_based=True)
    return path


def _header(path: Path, line: bytes) -> tuple[int, int, int]:
    words = line.split()
    if len(words) != 3 or not all(_COUNT.fullmatch(word) for word in words):
        raise InputError(
            f"a first line `points features labels` in {path}",
            repr(line[:60].decode("utf-8", "replace").rstrip("\n")),
            "write the three counts, below 2^31, on a line of their own",
        )
    points, features, labels = map(int, words)
    if max(points, features, labels) >= 2**31:
        raise InputError(
            f"counts below 2^31 in the first line of {path}",
            line.decode().strip(),
            "correct the header",
        )
    return points, features, labels


def _checked(
    path: Path, header: tuple[int, int, int], rows: Any, labels: list[tuple[float, ...]]
) -> LabelledPoints:
    points, num_features, num_labels = header
    counts = np.fromiter(map(len, labels), np.int64, len(labels))
    flat = np.fromiter(chain.from_iterable(labels), np.float64, int(counts.sum()))
    _expect(path, f"{points:,} points", f"{len(labels):,}", len(labels) == points)
    _expect(path, *_range("features", num_features, rows.indices))
    _expect(path, *_range("labels", num_labels, flat))
    _expect(path, "whole numbers as labels", "a fraction", bool((flat % 1 == 0).all()))
    finite = np.isfinite(rows.data)
    _expect(path, "finite values", f"{(~finite).sum():,} that are not", bool(finite.all()))
    owner = np.repeat(np.arange(len(labels)), counts)
    known = KnownPositives.from_pairs(
        torch.from_numpy(owner), torch.from_numpy(flat.astype(np.int64)), points
    )
    features = SparseRows(rows.indptr.astype(np.int64), rows.indices, rows.data)
    return LabelledPoints(features, known, num_features, num_labels)


def _range(what: str, size: int, numbers: np.ndarray) -> tuple[str, str, bool]:
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0, -1)
    return f"{what} from 0 to {size - 1}", f"{low:g} to {high:g}", bool(low >= 0 and high < size)


def _expect(path: Path, expected: str, got: str, right: bool) -> None:
    if not right:
        raise InputError(
            f"{expected} in {path}, as its header says", got, "correct the header or the lines"
        )


def _label_names(path: Path, num_labels: int) -> Sequence[str]:
    if not os.path.lexists(path):
        return Numbers(num_labels)
    names = [text_of(path, number, line).rstrip("\r\n") for number, line in lines_of(path)]
    if len(names) != num_labels:
        raise InputError(
            f"{num_labels:,} lines in {path}", f"{len(names):,}", "name every label, one a line"
        )
    return names


class Numbers(Sequence[str]):
    """The numbers from 0 to ``size - 1`` as names; none is kept."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: Any) -> Any:
        found = range(self.size)[place]
        return list(map(str, found)) if isinstance(found, range) else str(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == self.size and list(other) == self[:]

    __hash__ = None  # pyright: ignore[reportAssignmentType]
