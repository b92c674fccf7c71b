"""Reads a BEIR folder: ``corpus``, ``queries`` and ``qrels/``, as JSON lines or Parquet."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data.jsonl import json_batches
from negcache.run.data.qrels import read_qrels
from negcache.run.data.tables import BATCH_ROWS, CORPUS, QUERIES, Tables

TEXT_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
QRELS_ENDINGS = (".tsv", ".tsv.gz", ".parquet")


def beir_tables(folder: Path) -> Tables:
    """Find the files of a BEIR folder; reads nothing yet."""
    corpus = _one_file(folder, "corpus")
    queries = _one_file(folder, "queries")
    qrels = _qrels(folder)
    return Tables(
        name=folder.resolve().name,
        files=(corpus, queries, *qrels.values()),
        corpus=lambda: _batches(corpus, CORPUS),
        queries=lambda: _batches(queries, QUERIES),
        splits=lambda: {split: read_qrels(path) for split, path in qrels.items()},
    )


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        return _parquet_batches(path, schema)
    return json_batches(path, schema)


def _parquet_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in schema.names if name in file.schema_arrow.names]
            _check_columns(path, names)
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
                yield _with_schema(path, batch, schema)
    except (pa.ArrowInvalid, OSError) as failure:
        raise InputError("a Parquet file", f"{path}: {failure}", "write it anew") from failure


def _with_schema(path: Path, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        batch[name].cast(pa.string())
        if name in batch.schema.names
        else pa.nulls(len(batch), pa.string())
        for name in schema.names
    ]
    whole = pa.RecordBatch.from_arrays(columns, schema=schema)
    if whole["_id"].null_count:
        raise InputError("an _id in every row", f"{path}, where some are null", "fill them in")
    return whole


def _check_columns(path: Path, names: list[str]) -> None:
    if missing := {"_id", "text"} - set(names):
        raise InputError(
            "columns _id and text",
            f"{path} without {' and '.join(sorted(missing))}",
            "rename the columns of the file",
        )


def _one_file(folder: Path, stem: str) -> Path:
    found = [folder / (stem + end) for end in TEXT_ENDINGS if (folder / (stem + end)).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(path.name for path in found)
        raise InputError(f"one {stem} file in {folder}", names, "remove all but one")
    raise _missing(folder, " or ".join(stem + end for end in TEXT_ENDINGS))


def _qrels(folder: Path) -> dict[str, Path]:
    files = sorted(path for end in QRELS_ENDINGS for path in (folder / "qrels").glob("*" + end))
    splits = {path.name.split(".")[0]: path for path in files}
    if "train" not in splits:
        raise _missing(folder, "qrels/train.tsv or qrels/train.parquet")
    if len(splits) < len(files):
        raise InputError(
            f"one file a split in {folder / 'qrels'}",
            ", ".join(path.name for path in files),
            "remove the repeated ones",
        )
    return splits


def _missing(folder: Path, names: str) -> InputError:
    there = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*"))
    there += sorted(path.relative_to(folder).as_posix() for path in folder.glob("qrels/*"))
    shown = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "") or "nothing"
    return InputError(f"{names} in {folder}", f"{shown} there", "add the file or name the folder")
