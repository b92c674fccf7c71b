"""JSON lines as record batches, and the line to blame when that fails."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from negcache.errors import InputError

BLOCK_BYTES = 1 << 24  # of text parsed at a time; the longest line that can be read
LIKE = '{"_id": "d1", "title": "", "text": "..."}'


def json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream a JSON lines file, gzip or plain; fields outside the schema are left out.

    Args:
        path: each line an object whose ``_id`` is a string.
        schema: string columns; those but ``_id`` may be null or absent in the file.
    """
    try:
        yield from _parse(path, schema)
    except (pa.ArrowInvalid, OSError, EOFError) as failure:
        raise _first_fault(path, schema, str(failure)) from failure


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, gzip or plain, numbered from 1."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        yield from enumerate(stream, start=1)


def encoding_fault(path: Path | str, number: int) -> InputError:
    """What to say of a line that is no UTF-8."""
    return InputError(
        "UTF-8 text", f"{path}, line {number}, which is not", "convert the file to UTF-8"
    )


def line_fault(path: Path | str, number: int, what: str, like: str = LIKE) -> InputError:
    """What to say of a line that is not as it should be.

    Args:
        path: of the file.
        number: of the line, from 1.
        what: is wrong with it.
        like: a good one.
    """
    return InputError(
        f"one JSON object a line, like {like}",
        f"{path}, line {number}: {what}",
        "correct that line",
    )


def shown(value: Any) -> str:
    """A value as JSON, its first 80 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _parse(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pa.input_stream(str(path), compression="detect") as stream:
        first = stream.read(1)
    if not first:  # pyarrow refuses an empty file; to us it is a file of no rows
        return
    with pa.input_stream(str(path), compression="detect") as stream:
        reader = arrow_json.open_json(
            stream,
            read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
        for batch in reader:
            batch.validate(full=True)  # finds text that is not UTF-8
            if batch["_id"].null_count:
                raise pa.ArrowInvalid("a row without _id")
            yield batch.select(schema.names)


def _first_fault(path: Path, schema: pa.Schema, message: str) -> InputError:
    """Read the file again, slowly, to name the line that pyarrow could not take."""
    try:
        for number, line in lines_of(path):
            if len(line) > BLOCK_BYTES:
                return line_fault(path, number, f"{len(line):,} bytes long; cut it below 16 MB")
            if line.strip() and (fault := _fault_in(path, number, line, schema)):
                return fault
    except (OSError, EOFError) as failure:
        message = str(failure)
    return InputError("a readable JSON lines file", f"{path}: {message}", "write the file anew")


def _fault_in(path: Path, number: int, line: bytes, schema: pa.Schema) -> InputError | None:
    try:
        row = json.loads(line.decode().strip())
    except UnicodeDecodeError:
        return encoding_fault(path, number)
    except ValueError as failure:
        return line_fault(path, number, f"malformed JSON ({failure})")
    if not isinstance(row, dict):
        return line_fault(path, number, f"not an object: {shown(row)}")
    if not isinstance(row.get("_id"), str):
        return line_fault(path, number, f"without a string _id: {shown(row)}")
    for name in schema.names:
        if not isinstance(row.get(name), str | None):
            return line_fault(path, number, f"with a {name} that is no string: {shown(row)}")
    return None
