"""Reads the judgements of one split."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from negcache.errors import InputError
from negcache.run.data.jsonl import encoding_fault, lines_of
from negcache.run.data.tables import JUDGED


def read_qrels(path: Path) -> pa.Table:
    """A table with the schema `JUDGED`, out of a TSV file with a header or a Parquet file."""
    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else _read_tsv(path)
    except pa.ArrowInvalid as failure:
        raise _fault(path, str(failure)) from failure
    if missing := set(JUDGED.names) - set(table.column_names):
        raise InputError(
            f"a header with {', '.join(JUDGED.names)} in {path}",
            f"{', '.join(table.column_names)} (no {', '.join(sorted(missing))})",
            "add the header line, separated by tabs",
        )
    ids = [table[name].cast(pa.string()) for name in JUDGED.names[:2]]
    return pa.table([*ids, _grades(path, table["score"])], schema=JUDGED)


def _read_tsv(path: Path) -> pa.Table:
    return csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),  # so that errors name the row
        parse_options=csv.ParseOptions(delimiter="\t"),
        convert_options=csv.ConvertOptions(
            column_types={name: pa.string() for name in JUDGED.names}, strings_can_be_null=False
        ),
    )


def _grades(path: Path, scores: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers, also where they are written "1.0"."""
    try:
        return pc.cast(pc.cast(scores, pa.float64()), pa.int64())
    except pa.ArrowInvalid as failure:
        row, value = next(
            (row, value) for row, value in enumerate(scores.to_pylist()) if not _is_whole(value)
        )
        raise InputError(
            f"whole numbers in the score column of {path}",
            f"{value!r} in line {row + 2}",
            "grade each pair with an integer, 0 for no positive",
        ) from failure


def _is_whole(value: str | float | None) -> bool:
    try:
        return float(value if value is not None else "nan").is_integer()
    except ValueError:
        return False


def _fault(path: Path, message: str) -> InputError:
    if path.suffix != ".parquet":
        for number, line in lines_of(path):
            try:
                line.decode()
            except UnicodeDecodeError:
                return encoding_fault(path, number)
    return InputError(
        "a table with the columns query-id, corpus-id and score",
        f"{path}: {message.splitlines()[0]}",
        "correct the file",
    )
