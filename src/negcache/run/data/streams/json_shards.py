"""JSON lines as Parquet: each file is converted once, and kept by its path, size and time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.atomic import atomic_write, forget_interrupted
from negcache.run.data.downloads import cache_folder
from negcache.run.data.jsonl import line_fault, object_of, shown
from negcache.run.data.reading import LONGEST_LINE, lines_in, reading
from negcache.run.data.streams.batch import StreamColumns
from negcache.run.data.streams.files import ShardFile
from negcache.run.data.streams.ids import check_id_type
from negcache.run.progress import track

FORMAT = 1  # of what is converted; raise it when what is written here changes
GROUP_ROWS = 8192  # the most rows of a row group
FIRST_LINES = 256  # decide the types of features

BLOCK_BYTES = LONGEST_LINE  # the longest line that can be read

_WRONG = (pa.ArrowException, OverflowError, ValueError, TypeError)


def converted(
    files: Sequence[ShardFile], columns: StreamColumns, cache_dir: Path | str | None = None
) -> list[ShardFile]:
    """Parquet files of the columns asked for; those that were converted before are there at once.

    A file is read in blocks and written beside its place, so what is interrupted begins again at
    the first file that is not complete. Texts are strings; whether ids are strings or whole
    numbers the first of a file decides, and what features are its first 256 lines.

    Args:
        files: JSON lines, plain or gzip.
        columns: how they are called; other fields are left out.
        cache_dir: where they are kept; None: ``$NEGCACHE_CACHE``, else the user's cache folder.

    Raises:
        InputError: a file that cannot be read, or a line that is no such row; both are named.
    """
    homes = [_home(file, columns, cache_folder(cache_dir)) for file in files]
    missing = [pair for pair in zip(files, homes, strict=True) if not pair[1].exists()]
    for file, home in track("converting to Parquet")(missing):
        forget_interrupted(home)
        _convert(file, columns, home)
    return [
        ShardFile(str(home), file.name, LocalFileSystem())
        for file, home in zip(files, homes, strict=True)
    ]


def _home(file: ShardFile, columns: StreamColumns, cache: Path) -> Path:
    with reading(file.name, "a readable JSON lines file"):
        asked = [FORMAT, *file.version, columns.needed, columns.optional]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    stem = PurePosixPath(file.path).name.partition(".")[0]
    return cache / "streams" / f"{stem}-{key}.parquet"


def _convert(file: ShardFile, columns: StreamColumns, home: Path) -> None:
    schema = _schema(file, columns)
    try:
        with (
            atomic_write(home) as part,
            parquet.ParquetWriter(
                part, schema, compression="zstd", write_page_checksum=True
            ) as writer,
        ):
            for batch in _batches(file, columns, schema):
                groups = -(-len(batch) // GROUP_ROWS)
                writer.write_batch(batch, row_group_size=-(-len(batch) // groups))
    except OSError as failure:
        raise InputError(
            f"room for {file.name} as Parquet in {home.parent}",
            str(failure),
            "free some, or choose another cache folder ($NEGCACHE_CACHE)",
        ) from failure


def _schema(file: ShardFile, columns: StreamColumns) -> pa.Schema:
    """Strings for texts; what the first lines say for ids and features."""
    rows = [row for _, row in islice(_rows(file, columns), FIRST_LINES)]
    if not rows:
        raise InputError(f"rows in {file.name}", "none", "write it anew, or leave it out")
    there = dict.fromkeys(name for row in rows for name in row)
    if missing := [name for name in columns.needed if name not in there]:
        raise InputError(
            f"columns {', '.join(columns.needed)} in {file.name}",
            f"{', '.join(there)} (no {', '.join(missing)})",
            "rename them, or say how yours are called",
        )
    optional = [name for name in columns.optional if name == columns.title or name in there]
    return pa.schema(
        [(name, _type(file, name, rows, columns)) for name in columns.needed + optional]
    )


def _type(file: ShardFile, name: str, rows: list[dict], columns: StreamColumns) -> pa.DataType:
    if name in [*columns.texts, columns.title]:
        return pa.string()
    is_id = name in (columns.item, columns.query_id)
    try:
        values = [row[name] for row in rows if row.get(name) is not None]
        kind = pa.infer_type(values[:1] if is_id else values)
    except (pa.ArrowException, OverflowError) as failure:
        raise InputError(
            f"values of one type in {name} of {file.name}", str(failure), "write them alike"
        ) from failure
    if is_id:
        check_id_type(kind, f"field {name} of {file.name}")
    return kind


def _batches(
    file: ShardFile, columns: StreamColumns, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    rows = _rows(file, columns)
    while block := list(islice(rows, GROUP_ROWS)):
        try:
            found = [_column(field, [row.get(field.name) for _, row in block]) for field in schema]
        except _WRONG as failure:
            raise _first_fault(file, columns, schema, block) from failure
        batch = pa.RecordBatch.from_arrays(found, schema=schema)
        if any(batch[name].null_count for name in _never_null(columns, schema)):
            raise _first_fault(file, columns, schema, block)
        yield batch


def _rows(file: ShardFile, columns: StreamColumns) -> Iterator[tuple[int, dict[str, Any]]]:
    """The object of each line by its number."""
    with reading(file.name, "a readable JSON lines file"), _open(file) as stream:
        for number, line in lines_in(stream, file.name, BLOCK_BYTES):
            if line.strip():
                yield number, object_of(file.name, number, line, _like(columns))


def _open(file: ShardFile) -> Any:
    return file.system.open(file.path, "rb", compression="infer")


def _column(field: pa.Field, values: list[Any]) -> pa.Array:
    """The values of a field, or an error: nothing is made another number on the way."""
    found = pa.array(values, field.type)
    exact = not pa.types.is_string(field.type) and "double" not in str(field.type)
    if exact and json.dumps(found.to_pylist()) != json.dumps(values):
        raise ValueError(f"values that are no {field.type}")
    return found


def _never_null(columns: StreamColumns, schema: pa.Schema) -> list[str]:
    asked = [name for name in columns.optional if name == columns.query_id]
    never = [columns.item, *columns.features, *asked]
    return [name for name in never if name in schema.names]


def _first_fault(
    file: ShardFile,
    columns: StreamColumns,
    schema: pa.Schema,
    block: list[tuple[int, dict[str, Any]]],
) -> InputError:
    """The first line of a block that has no such columns."""
    for number, row in block:
        for field in schema:
            if what := _wrong(row.get(field.name), field, _never_null(columns, schema)):
                return line_fault(file.name, number, f"{what}: {shown(row)}", _like(columns))
    return InputError(f"values of one type in {file.name}", "others", "write the file anew")


def _wrong(value: Any, field: pa.Field, never_null: list[str]) -> str | None:
    if value is None:
        return f"without {field.name}" if field.name in never_null else None
    try:
        _column(field, [value])
    except _WRONG:
        return f"whose {field.name} is no {field.type}"
    return None


def _like(columns: StreamColumns) -> str:
    texts = dict.fromkeys(columns.texts, "...")
    return json.dumps({columns.item: "d1"} | texts | dict.fromkeys(columns.features, 0))
