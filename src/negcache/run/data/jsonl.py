"""JSON lines, read strictly: one object a line, no name twice, no NaN, no half characters."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from negcache.errors import InputError
from negcache.run.data import reading
from negcache.run.data.reading import encoding_fault, lines_of
from negcache.run.data.tables import BATCH_ROWS

LIKE = '{"_id": "d1", "title": "", "text": "..."}'


def json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Stream a JSON lines file, gzip or plain; fields outside the schema are left out.

    Args:
        path: each line an object whose ``_id`` is a string.
        schema: string columns; those but ``_id`` may be null or absent in the file.
    """
    rows = _texts(path, schema.names)
    while block := list(islice(rows, BATCH_ROWS)):
        columns = [pa.array(column, pa.string()) for column in zip(*block, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def json_rows(path: Path, like: str = LIKE) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON lines file by the number of their line; blank lines are passed over.

    Args:
        path: gzip or plain.
        like: a good line, shown where one is not.
    """
    for number, line in lines_of(path):
        if line.strip():
            yield number, object_of(path, number, line, like)


def object_of(path: Path | str, number: int, line: bytes, like: str = LIKE) -> dict[str, Any]:
    """The object in a line, or an InputError that names the line."""
    try:
        row = _STRICT.decode(line.decode().rstrip("\r\n"))
        if b"\\u" in line:  # only so can half a character be written
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as failure:
        raise encoding_fault(path, number) from failure
    except (ValueError, RecursionError) as failure:
        told = str(failure) or "nested too deeply"
        raise line_fault(path, number, f"malformed JSON ({told})", like) from failure
    if not isinstance(row, dict):
        raise line_fault(path, number, f"not an object: {shown(row)}", like)
    return row


def line_fault(path: Path | str, number: int, what: str, like: str = LIKE) -> InputError:
    """What to say of a line that is not as it should be, beside a good one."""
    return reading.line_fault(path, number, what, f"one JSON object a line, like {like}")


def shown(value: Any) -> str:
    """A value as JSON, its first 80 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "a value nested too deeply"
    return text if len(text) <= 80 else text[:77] + "..."


def _texts(path: Path, names: list[str]) -> Iterator[list[str | None]]:
    for number, row in json_rows(path):
        found = [row.get(name) for name in names]
        if not isinstance(row.get("_id"), str):
            raise line_fault(path, number, f"without a string _id: {shown(row)}")
        for name, value in zip(names, found, strict=True):
            if value is not None and not isinstance(value, str):
                raise line_fault(path, number, f"with a {name} that is no string: {shown(row)}")
        yield found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
