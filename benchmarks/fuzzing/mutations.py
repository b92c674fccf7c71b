"""How inputs are spoilt: bytes, lines, files and values, each by one number generator."""

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

ODD = [
    b"\t",
    b"\r",
    b"\n",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\x1b[31m",
    b'"',
    b"'",
    b"\\",
    b"_",
    b",",
    b":",
    b" ",
    b"#",
    b"-",
    b"=",
    b"[",
    b"{",
    b"}",
    b"]",
    b".",
    b"e",
    b"\xff",
    b"\xef\xbc\x91",
    b"\xd9\xa3",
    b"\\ud800",
    b"\\u0000",
    b"\\n",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"null",
    b"true",
    b"0_5",
    b"007",
    b"2020-01-01",
    b"9007199254740993",
    b"99999999999999999999",
    b"0.5",
    b"1.0",
    b"qid:1",
    b"../",
    b"\x80",
    b"\xed\xa0\x80",
    b"\r\n",
    b"x" * 5000,
    b"[" * 2000,
    b'{"a":' * 1500,
]
"""What has been mistaken for something else, somewhere."""

VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    7,
    2**31,
    2**53 + 1,
    2**63,
    0.5,
    1.0,
    -0.0,
    1e300,
    "",
    " ",
    "a",
    "1",
    "d1",
    "2020-01-01",
    "12:30",
    "007",
    "1e3",
    "é",
    "e\u0301",
    "\u2028",
    "a\tb",
    "a\nb",
    "\x1b[31m",
    "\0",
    "\ud800",
    [],
    ["d1"],
    [["d1"]],
    {"a": 1},
    [1, "a"],
    "x" * 3000,
    "\uff11",
    "0_5",
    " d1",
    "d1 ",
]


def spoil_bytes(text: bytes, rng: random.Random) -> bytes:
    """A text with a few places spoilt."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        text = rng.choice(_ON_BYTES)(text, rng)
    return text


def spoil_zipped(text: bytes, rng: random.Random) -> bytes:
    """A text, zipped, and spoilt before or after."""
    if rng.random() < 0.6:
        return gzip.compress(spoil_bytes(text, rng), 1)
    zipped = gzip.compress(text, 1)
    return rng.choice([zipped[: -rng.randrange(1, 20)], spoil_bytes(zipped, rng), text, zipped * 2])


def spoil_file(path: Path, rng: random.Random) -> None:
    """Another thing than a file, at its place."""
    kind = rng.randrange(6)
    whole = path.read_bytes()
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(rng.choice(["nowhere", path.name, "/dev/zero", "."]))
    elif kind == 3:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        path.write_bytes(whole)
    elif kind == 4:
        (path.parent / f"real-{path.name}").write_bytes(whole)
        path.symlink_to(f"real-{path.name}")


def spoil_row(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A row with another value, or without a name, or with one more."""
    name = rng.choice(list(row))
    changed = dict(row)
    kind = rng.randrange(4)
    if kind == 0:
        del changed[name]
    elif kind == 1:
        changed[rng.choice(["x", "_id", "title", "negative-score", "negatives"])] = rng.choice(
            VALUES
        )
    else:
        changed[name] = rng.choice(VALUES)
    return changed


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    """JSON lines; now and then the letters beyond ASCII are escaped."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def spoil_column(column: list[Any], rng: random.Random) -> pa.Array:
    """A column of another type, or with other values."""
    kinds = [
        pa.int8(),
        pa.int64(),
        pa.uint64(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.date32(),
        pa.null(),
        pa.timestamp("us"),
        pa.duration("s"),
        pa.decimal128(9, 2),
        pa.time32("s"),
        pa.binary(),
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.list_(pa.string()),
        pa.large_list(pa.int64()),
        pa.list_(pa.string(), 2),
        pa.struct([("a", pa.int64())]),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.list_(pa.string())),
        pa.dictionary(pa.int8(), pa.int64()),
        pa.map_(pa.string(), pa.string()),
    ]
    wanted = rng.choice(kinds)
    values = [rng.choice([value, value, value, rng.choice(VALUES)]) for value in column]
    for made in (values, column, [_like(wanted, i) for i in range(len(column))]):
        try:
            return pa.array(made, wanted)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            continue
    return pa.nulls(len(column), wanted)


def _like(kind: pa.DataType, number: int) -> Any:
    """Some value of a type."""
    if pa.types.is_boolean(kind):
        return number % 2 == 0
    if pa.types.is_nested(kind):
        one = _like(kind.value_type, number) if hasattr(kind, "value_type") else 1
        return {"a": number} if pa.types.is_struct(kind) else [one, one]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return number
    return f"v{number}" if not pa.types.is_binary(kind) else b"v\xff"


def _flip(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text) + 1)
    return text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]


def _insert(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(ODD) + text[place:]


def _replace_cell(text: bytes, rng: random.Random) -> bytes:
    """What stands between two separators becomes something odd."""
    separator = rng.choice([b"\t", b'"', b" ", b",", b":", b"\n", b"="])
    cells = text.split(separator)
    cells[rng.randrange(len(cells))] = rng.choice(ODD)
    return separator.join(cells)


def _cut(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randrange(len(text) + 1)]


def _lose(text: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(text) + 1)
    return text[:place] + text[place + rng.choice([1, 2, 10]) :]


def _lines(text: bytes, rng: random.Random) -> bytes:
    """Lines twice, or in another place, or gone, or joined."""
    lines = text.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(other, lines[one])
    elif kind == 1:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 2:
        del lines[one]
    else:
        lines[one : one + 2] = [b"".join(lines[one : one + 2])]
    return b"\n".join(lines)


def _encode(text: bytes, rng: random.Random) -> bytes:
    told = text.decode("utf-8", "replace")
    return told.encode(rng.choice(["utf-16", "latin-1", "utf-8-sig"]), "replace")


def _ends(text: bytes, rng: random.Random) -> bytes:
    return text.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"\xe2\x80\xa8", b" \n"]))


_ON_BYTES = [
    _flip,
    _insert,
    _insert,
    _replace_cell,
    _replace_cell,
    _cut,
    _lose,
    _lines,
    _lines,
    _encode,
    _ends,
]
