"""Which items answer each query of a stream: all its pairs sorted, once, in bounded memory."""

import hashlib
import json
import os
import warnings
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from negcache.errors import InputError
from negcache.known_positives import PositivesById, by_query, distinct_pairs
from negcache.run.atomic import atomic_write, forget_all, remove
from negcache.run.data.built_once import built_once, room_for
from negcache.run.data.downloads import cache_folder
from negcache.run.data.growing_array import GrowingArray, say_written
from negcache.run.data.prepared import damage, write_manifest
from negcache.run.data.reading import reading
from negcache.run.data.streams.stream import Stream
from negcache.run.progress import track

FORMAT = 1  # of what is kept; raise it when what is written here changes

AT_ONCE = 1 << 22
"""Pairs that are sorted at a time."""

PAIR_BYTES = 64
"""Of memory that a pair takes while it is sorted, at most."""

TABLE_BYTES = 24
"""Of the table for each pair, at most: as many queries, none of them twice."""

SORTING_BYTES = 16 + TABLE_BYTES
"""Of disk for each pair while the table is made: it is in a sorted run, and in the table."""

ITEMS, WRITTEN, RUNS = "items.npy", "written.json", "runs"


def known_positives(stream: Stream, *, cache_dir: Path | str | None = None) -> PositivesById:
    """The items of each query of a stream, in mapped files; made by the first call.

    All pairs are read once, their ids alone, and sorted `AT_ONCE` at a time: in `PAIR_BYTES` of
    memory for each of these, beside a row group, and `SORTING_BYTES` of disk for each pair; 8 bytes
    a pair and 16 a query stay. The pairs of one query are sorted together, however many they are.
    What is interrupted is gone on with by the next call, and comes to the same bytes. Of several
    processes one makes it, and the others wait.

    Args:
        stream: of pairs.
        cache_dir: where tables are kept; None: ``$NEGCACHE_CACHE``, else the user's cache folder.

    Raises:
        InputError: a stream of items without queries, a row group that cannot be read, a full disk.
    """
    if stream.columns.query is None:
        raise InputError("a stream of pairs", "one of items without queries", "open the pairs")
    folder = cache_folder(cache_dir) / "streams" / f"known-{_key(stream)}"
    _build(stream, folder)
    return PositivesById.open(folder)


def _key(stream: Stream) -> str:
    files = []
    for file in stream.table.files:
        with reading(file.name, "a readable file"):
            files.append(file.version)
    kinds = [f"{each.name}: {each.type}" for each in stream.pair_columns]
    told = json.dumps([FORMAT, AT_ONCE, kinds, files])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _build(stream: Stream, folder: Path) -> None:
    build = built_once(folder, partial(damage, folder), partial(_begin_anew, folder))
    with room_for("the known positives", folder), build as parts:
        if parts is not None:
            _sort_all(stream, parts)


def _begin_anew(folder: Path, _parts: Path) -> None:
    shown = ", ".join(damage(folder)[:3])
    warnings.warn(f"{folder}: damaged or missing: {shown}. It is made anew.", stacklevel=2)
    remove(folder)


def _sort_all(stream: Stream, folder: Path) -> None:
    """Sorted runs of consecutive row groups, then the table, a range of queries at a time."""
    forget_all(folder)
    runs, merged = folder / RUNS, folder / f"{RUNS}.merged"
    bounds = _bounds(stream.table.rows)
    homes = [runs / f"{number:06d}.npy" for number in range(len(bounds) - 1)]
    if not (folder / ITEMS).exists():
        for groups, home in track("sorting pairs")([*zip(pairwise(bounds), homes, strict=True)]):
            if not home.exists():
                _sort_run(stream, range(*groups), home)
    if runs.exists():
        _merge([np.load(home, mmap_mode="r") for home in homes], folder)
        os.replace(runs, merged)
    for done in (merged, folder / WRITTEN):
        remove(done)
    write_manifest(folder, {"format": FORMAT})


def _bounds(rows: np.ndarray) -> list[int]:
    """Where runs of row groups begin and end: of `AT_ONCE` pairs at most, or of one row group."""
    bounds, pairs = [0], 0
    for group, size in enumerate(rows.tolist()):
        if pairs and pairs + size > AT_ONCE:
            bounds.append(group)
            pairs = 0
        pairs += size
    return [*bounds, len(rows)]


def _sort_run(stream: Stream, groups: range, home: Path) -> None:
    """The distinct pairs of some row groups as int64 [2, n]: queries, items."""
    found = np.empty((2, int(stream.table.rows[groups.start : groups.stop].sum())), np.int64)
    end = 0
    for group in groups:
        for queries, items in stream.pairs(group):
            found[:, end : end + len(items)] = queries, items
            end += len(items)
    queries, items = distinct_pairs(*found[:, :end])
    del found
    with atomic_write(home) as part, part.open("wb") as sink:
        header = {"descr": "<i8", "fortran_order": False, "shape": (2, len(items))}
        np.lib.format.write_array_header_1_0(sink, header)
        for column in (queries, items):
            column.tofile(sink)


def _merge(runs: list[np.ndarray], folder: Path) -> None:
    """Append one range of queries after the other; those that are on the disk stay."""
    cuts = _cuts(runs)
    written = folder / WRITTEN
    told = {"ranges": 0, "queries": 0, "items": 0}
    if written.exists():
        told = json.loads(written.read_text("utf-8"))
    kind = np.dtype(np.int64)
    with (
        closing(GrowingArray(folder / "queries.npy", kind, told["queries"])) as queries,
        closing(GrowingArray(folder / "offsets.npy", kind, told["queries"])) as offsets,
        closing(GrowingArray(folder / ITEMS, kind, told["items"])) as items,
    ):
        for number in range(told["ranges"], cuts.shape[1] - 1):
            asked, starts, found = _of_range(runs, cuts[:, number], cuts[:, number + 1])
            offsets.append(items.length + starts[:-1])
            queries.append(asked)
            items.append(found)
            told = {"ranges": number + 1, "queries": queries.length, "items": items.length}
            say_written(written, told, queries, offsets, items)
        offsets.append(np.array([items.length], np.int64))


def _of_range(
    runs: list[np.ndarray], first: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct pairs of a part of every run as a table."""
    total = int((end - first).sum())
    together, place = np.empty((2, total), np.int64), 0
    for run, start, stop in zip(runs, first.tolist(), end.tolist(), strict=True):
        together[:, place : place + stop - start] = run[:, start:stop]
        place += stop - start
    return by_query(*distinct_pairs(*together))


def _cuts(runs: list[np.ndarray]) -> np.ndarray:
    """Where ranges of queries begin and end in every run, [runs, ranges + 1].

    A range has at most `AT_ONCE` pairs beside those of its first query. Each run tells every
    ``step``-th of its queries: between two neighbours of all that were told a run has fewer than
    ``step`` pairs.
    """
    sizes = np.array([run.shape[1] for run in runs])
    step = max(1, AT_ONCE // (4 * len(runs)))
    told = np.sort(np.concatenate([run[0, ::step] for run in runs]))
    each = max(1, AT_ONCE // (2 * step))
    edges = np.unique(told[each::each])
    inside = [np.searchsorted(run[0], edges) for run in runs]
    return np.stack([np.zeros_like(sizes), *np.transpose(inside), sizes], axis=1)
