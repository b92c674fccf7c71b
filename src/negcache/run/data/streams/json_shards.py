"""JSON lines as Parquet: each file is converted once, and kept by its path, size and time."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from pyarrow import json as arrow_json
from pyarrow import parquet

from negcache.errors import InputError
from negcache.run.atomic import atomic_write, forget_interrupted
from negcache.run.data.downloads import cache_folder
from negcache.run.data.jsonl import BLOCK_BYTES, encoding_fault, line_fault, shown
from negcache.run.data.streams.batch import StreamColumns
from negcache.run.data.streams.files import ShardFile
from negcache.run.data.streams.ids import check_id_type
from negcache.run.progress import track

FORMAT = 1  # of what is converted; raise it when what is written here changes
GROUP_ROWS = 8192  # the most rows of a row group
FIRST_LINES = 256  # decide the types of features

_UNREADABLE = (pa.ArrowException, OSError, ValueError, EOFError)


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
    try:
        size, changed = file.system.size(file.path), _changed(file)
    except OSError as failure:
        raise _unreadable(file, failure) from failure
    asked = [FORMAT, file.name, size, changed, columns.needed, columns.optional]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    stem = PurePosixPath(file.path).name.partition(".")[0]
    return cache / "streams" / f"{stem}-{key}.parquet"


def _changed(file: ShardFile) -> str:
    try:
        return str(file.system.modified(file.path))
    except NotImplementedError:  # a file system without times
        return file.system.ukey(file.path)


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
    rows = []
    try:
        with _open(file) as stream:
            for number, line in islice(_lines(stream), FIRST_LINES):
                if fault := _fault_in(file, number, line, columns):
                    raise fault
                rows += [json.loads(line)] if line.strip() else []
    except (OSError, EOFError) as failure:
        raise _unreadable(file, failure) from failure
    if not rows:
        raise InputError(f"rows in {file.name}", "none", "write it anew, or leave it out")
    there = dict.fromkeys(name for row in rows for name in row)
    if missing := [name for name in columns.needed if name not in there]:
        raise InputError(
            f"columns {', '.join(columns.needed)} in {file.name}",
            f"{', '.join(there)} (no {', '.join(missing)})",
            "rename them, or say how yours are called",
        )
    return pa.schema(
        [(name, _type(file, name, rows, columns)) for name in columns.needed + columns.optional]
    )


def _type(file: ShardFile, name: str, rows: list[dict], columns: StreamColumns) -> pa.DataType:
    if name in columns.texts + columns.optional:
        return pa.string()
    try:
        values = [row[name] for row in rows if row.get(name) is not None]
        kind = pa.infer_type(values[:1] if name == columns.item else values)
    except (pa.ArrowException, OverflowError) as failure:
        raise InputError(
            f"values of one type in {name} of {file.name}", str(failure), "write them alike"
        ) from failure
    if name == columns.item:
        check_id_type(kind, f"field {name} of {file.name}")
    return kind


def _batches(
    file: ShardFile, columns: StreamColumns, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    try:
        with _open(file) as stream:
            reader = arrow_json.open_json(
                pa.PythonFile(stream, mode="r"),
                read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            )
            for batch in reader:
                batch.validate(full=True)  # finds text that is not UTF-8
                if any(batch[name].null_count for name in _never_null(columns)):
                    raise pa.ArrowInvalid("a row without id or feature")
                if len(batch):
                    yield batch.select(schema.names)
    except _UNREADABLE as failure:
        raise _first_fault(file, columns, schema, failure) from failure


def _open(file: ShardFile) -> Any:
    return file.system.open(file.path, "rb", compression="infer")


def _lines(stream: Any) -> Iterator[tuple[int, bytes]]:
    """Lines from 1 on; of one that is too long its beginning, and then no more."""
    number, line = 0, b""
    while len(line) <= BLOCK_BYTES and (line := stream.readline(BLOCK_BYTES + 1)):
        number += 1
        yield number, line


def _never_null(columns: StreamColumns) -> list[str]:
    return [columns.item, *columns.features]


def _first_fault(
    file: ShardFile, columns: StreamColumns, schema: pa.Schema, failure: Exception
) -> InputError:
    """Read the file again, slowly, to name the line that pyarrow could not take."""
    try:
        with _open(file) as stream:
            for number, line in _lines(stream):
                if fault := _fault_in(file, number, line, columns, schema):
                    return fault
    except (OSError, EOFError) as unreadable:
        failure = unreadable
    return _unreadable(file, failure)


def _fault_in(
    file: ShardFile,
    number: int,
    line: bytes,
    columns: StreamColumns,
    schema: pa.Schema | None = None,
) -> InputError | None:
    """What is wrong with a line; without a schema, whether it is an object at all."""
    if len(line) > BLOCK_BYTES:
        return line_fault(file.name, number, "longer than 16 MB; cut it", _like(columns))
    if not line.strip():
        return None
    try:
        row = json.loads(line.decode().strip())
    except UnicodeDecodeError:
        return encoding_fault(file.name, number)
    except ValueError as failure:
        return line_fault(file.name, number, f"malformed JSON ({failure})", _like(columns))
    if not isinstance(row, dict):
        return line_fault(file.name, number, f"not an object: {shown(row)}", _like(columns))
    for field in schema or ():
        if what := _wrong(row.get(field.name), field, columns):
            return line_fault(file.name, number, f"{what}: {shown(row)}", _like(columns))
    return None


def _wrong(value: object, field: pa.Field, columns: StreamColumns) -> str | None:
    if value is None:
        return f"without {field.name}" if field.name in _never_null(columns) else None
    try:
        same = json.dumps(pa.array([value], field.type).to_pylist()) == json.dumps([value])
    except (pa.ArrowException, OverflowError):
        same = False
    if same or "double" in str(field.type):  # which takes whole numbers too
        return None
    return f"whose {field.name} is no {field.type}"


def _like(columns: StreamColumns) -> str:
    texts = dict.fromkeys(columns.texts, "...")
    return json.dumps({columns.item: "d1"} | texts | dict.fromkeys(columns.features, 0))


def _unreadable(file: ShardFile, failure: Exception) -> InputError:
    return InputError(
        "a readable JSON lines file", f"{file.name}: {failure}", "write the file anew"
    )
