"""Reads a BEIR folder: ``corpus``, ``queries`` and ``qrels/``, as JSON lines or Parquet."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.data.columns import choose, ids_of, is_text, texts_of
from negcache.run.data.ids import refuse_unfit
from negcache.run.data.jsonl import json_batches
from negcache.run.data.qrels import read_qrels
from negcache.run.data.reading import reading, refuse_odd
from negcache.run.data.tables import BATCH_ROWS, CORPUS, QUERIES, Tables

TEXT_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
NEEDED = ("_id", "text")
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
    """With ids that a run file can hold."""
    parquet_file = path.suffix == ".parquet"
    for batch in _parquet_batches(path, schema) if parquet_file else json_batches(path, schema):
        refuse_unfit(path, batch["_id"], spaces=False)
        yield batch


def _parquet_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    refuse_odd(path)
    optional = [name for name in schema.names if name not in NEEDED]
    with (
        reading(path, "a Parquet file"),
        parquet.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        names = choose(path, file.schema_arrow.names, NEEDED, optional, "rename the columns")
        # closed before the file is: what reads ahead would read what is no longer there
        with closing(file.iter_batches(BATCH_ROWS, columns=names, use_threads=False)) as batches:
            for batch in batches:
                batch.validate(full=True)  # finds text that is not UTF-8
                yield _with_schema(path, batch, schema)


def _with_schema(path: Path, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [ids_of(path, batch["_id"], "_id")]
    for name in schema.names[1:]:
        absent = name not in batch.schema.names
        column = pa.nulls(len(batch), pa.string()) if absent else batch[name]
        if not is_text(column.type) and not pa.types.is_null(column.type):
            raise InputError(
                f"strings in column {name} of {path}", str(column.type), "cast the column"
            )
        columns.append(texts_of(path, column, name))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _one_file(folder: Path, stem: str) -> Path:
    found = [
        folder / (stem + end) for end in TEXT_ENDINGS if os.path.lexists(folder / (stem + end))
    ]
    if len(found) == 1:
        refuse_odd(found[0])
        return found[0]
    if found:
        names = " and ".join(path.name for path in found)
        raise InputError(f"one {stem} file in {folder}", names, "remove all but one")
    raise _missing(folder, " or ".join(stem + end for end in TEXT_ENDINGS))


def _qrels(folder: Path) -> dict[str, Path]:
    found = (path for end in QRELS_ENDINGS for path in (folder / "qrels").glob("*" + end))
    files = sorted(path for path in found if not path.name.startswith("."))  # ._* are of macOS
    for path in files:
        refuse_odd(path)
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
