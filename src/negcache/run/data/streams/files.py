"""Which files a stream is made of: a folder, a glob or a list, here or at any fsspec address."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs as arrow_fs

from negcache.errors import InputError
from negcache.run.data.reading import refuse_odd

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")

Source: TypeAlias = str | Path | Sequence[str | Path]
"""A folder, a glob, a file, or a list of them."""


class ShardFile(NamedTuple):
    """One file of a stream.

    Args:
        path: on its file system.
        name: as the user knows it.
        system: where it lies.
    """

    path: str
    name: str
    system: fsspec.AbstractFileSystem

    @property
    def is_json(self) -> bool:
        """JSON lines rather than Parquet."""
        return self.path.lower().endswith(JSON_LINES)

    @property
    def told(self) -> str:
        """As errors show it."""
        converted = self.name.lower().endswith(JSON_LINES) and not self.is_json
        return f"{self.name} (converted: {self.path})" if converted else self.name

    @property
    def version(self) -> tuple[str, int, str]:
        """Its name, size and time of change. Raises OSError."""
        try:
            changed = str(self.system.modified(self.path))
        except NotImplementedError:  # a file system without times
            changed = self.system.ukey(self.path)
        return self.name, int(self.system.size(self.path) or 0), changed

    @property
    def arrow_system(self) -> arrow_fs.FileSystem:
        """The file system as pyarrow takes it."""
        if isinstance(self.system, LocalFileSystem):
            return arrow_fs.LocalFileSystem()
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(self.system))


def find_files(source: Source, storage_options: Mapping[str, Any] | None = None) -> list[ShardFile]:
    """The files of a source: those of a folder or glob by name, a list as it stands.

    In a folder, files and folders whose name begins with ``.`` or ``_`` are passed over, and so is
    what is neither Parquet nor JSON lines.

    Args:
        source: local paths or fsspec addresses, such as ``s3://bucket/shards/*.parquet``.
        storage_options: for the file system, as fsspec takes them.

    Raises:
        InputError: nothing there, a file twice, both kinds at once, a kind that is not read, or
            a file system that is unknown, absent or does not answer.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found = [file for one in sources for file in _expand(str(one), storage_options or {})]
    shown = ", ".join(map(str, sources[:3])) + (", ..." if len(sources) > 3 else "")
    known = ", ".join(PARQUET + JSON_LINES)
    if not found:
        raise InputError(f"files ({known}) in {shown}", "none", "check the path or the pattern")
    for file in found:
        if not file.path.lower().endswith(PARQUET + JSON_LINES):
            raise InputError(f"files ({known})", file.name, "rename it, or leave it out")
    names = [file.name for file in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError("every file once", f"{twice} more than once", "name it once")
    if len({file.is_json for file in found}) > 1:
        raise InputError(
            f"Parquet or JSON lines in {shown}", "both", "name those of one kind: a/*.parquet"
        )
    return found


def _expand(address: str, options: Mapping[str, Any]) -> Iterator[ShardFile]:
    try:
        system, path = fsspec.core.url_to_fs(address, **options)
        for one in _paths(system, path):
            if isinstance(system, LocalFileSystem) and os.path.lexists(one):
                refuse_odd(Path(one))
            name = system.unstrip_protocol(one) if "://" in address else one
            yield ShardFile(one, name, system)
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as failure:
        raise InputError(
            f"files at {address}", str(failure), "check the address, and that it can be read"
        ) from failure


def _paths(system: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if any(mark in path for mark in "*?["):
        return sorted(str(one) for one in system.glob(path) if not system.isdir(one))
    if not system.isdir(path):
        return [path]
    inside = (str(one) for one in system.find(path))
    return sorted(one for one in inside if _is_shard(PurePosixPath(one[len(path) :])))


def _is_shard(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name.lower().endswith(PARQUET + JSON_LINES)
