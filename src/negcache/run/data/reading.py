"""The layer under all readers: plain files alone, and what a library says is one clear error."""

import gzip
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from negcache.errors import InputError

LONGEST_LINE = 1 << 24
"""Bytes of a line of text, at most."""

_ODD = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(path: Path | str, what: str, remedy: str = "write the file anew") -> Iterator[None]:
    """Inside, a library reads the file; whatever it raises becomes an InputError that names it.

    Args:
        path: of the file.
        what: the file should be: "a Parquet file".
        remedy: what to do.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as failure:  # of whatever kind a library's errors are
        raise InputError(what, f"{path}: {clause(failure)}", remedy) from failure


def refuse_odd(path: Path, *, folders: bool = False) -> None:
    """Refuse, before it is opened, what is no plain file and no link to one: a FIFO would wait.

    Args:
        folders: may be given too.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as failure:  # ValueError: a NUL in the name
        why = failure.strerror if isinstance(failure, OSError) else failure
        raise InputError(f"the file {path}", str(why), "check the path") from failure
    if kind != stat.S_IFREG and not (folders and kind == stat.S_IFDIR):
        odd = _ODD.get(kind, "no plain file")
        raise InputError("a plain file", f"{path}, {odd}", "name the file itself")


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, gzip or plain, numbered from 1.

    Raises:
        InputError: no plain file, a broken gzip, a line of more than 16 MB.
    """
    refuse_odd(path)
    with reading(path, "a readable text file"), opened(path) as stream:
        yield from lines_in(stream, path)


def lines_in(
    stream: Any, path: Path | str, longest: int = LONGEST_LINE
) -> Iterator[tuple[int, bytes]]:
    """The lines of an open file, numbered from 1; a byte order mark is left out."""
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise line_fault(path, number, "longer than 16 MB; cut it", "lines of at most 16 MB")
        yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def opened(path: Path) -> Any:
    """The bytes of a file, gzip or plain."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def text_of(path: Path | str, number: int, line: bytes) -> str:
    """A line as text."""
    try:
        return line.decode()
    except UnicodeDecodeError as failure:
        raise encoding_fault(path, number) from failure


def encoding_fault(path: Path | str, number: int) -> InputError:
    """What to say of a line that is no UTF-8."""
    return InputError(
        "UTF-8 text", f"{path}, line {number}, which is not", "convert the file to UTF-8"
    )


def line_fault(path: Path | str, number: int, what: str, expected: str) -> InputError:
    """What to say of a line that is not as it should be.

    Args:
        path: of the file.
        number: of the line, from 1.
        what: is wrong with it.
        expected: a good one.
    """
    return InputError(expected, f"{path}, line {number}: {what}", "correct that line")


def clause(failure: BaseException) -> str:
    """A library's message as part of a sentence."""
    told = "".join(one if one.isprintable() else " " for one in str(failure))
    return " ".join(told.split()).rstrip(".")[:300] or type(failure).__name__
