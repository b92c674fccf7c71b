"""A prepared folder is what its manifest says, file by file; what is not is made anew."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import xxhash

from negcache.errors import InputError
from negcache.run.atomic import remove
from negcache.run.checksum import sha256_of, xxh128_of
from negcache.run.data.reading import refuse_odd

MANIFEST, SOURCES, TOKENIZER = "manifest.json", "sources.json", "tokenizer.json"

EVERYTHING = {"corpus", "queries", "corpus.tokens", "queries.tokens", "splits", TOKENIZER, SOURCES}

FOLLOWS = {
    TOKENIZER: {"corpus.tokens", "queries.tokens"},
    SOURCES: EVERYTHING,
    MANIFEST: EVERYTHING,
}
"""What cannot be trusted either where one of these is damaged."""


def write_manifest(folder: Path, told: dict[str, Any]) -> None:
    """Write, as the last file, what is told of the folder, and size and hash of every file."""
    files = {name: [size, xxh128_of(folder / name)] for name, size in _sizes(folder).items()}
    whole = told | {"files": files}
    text = json.dumps(whole | {"check": _check(whole)}, indent=2)
    (folder / MANIFEST).write_text(text, "utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What was told of the folder; None where that is missing or damaged."""
    try:
        refuse_odd(folder / MANIFEST)
        told = json.loads((folder / MANIFEST).read_text("utf-8"))
        return told if told.pop("check") == _check(told) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def damage(folder: Path) -> list[str]:
    """Names of the files that are missing, too many, or of another content than was written."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [MANIFEST]
    there, files = _sizes(folder), manifest["files"]
    differ = {name for name, (size, _) in files.items() if there.get(name) != size}
    strange = there.keys() - files.keys()
    alike = files.keys() - differ
    return sorted(differ | strange | {n for n in alike if xxh128_of(folder / n) != files[n][1]})


def salvage(folder: Path, parts: Path) -> None:
    """Move what is intact of a damaged folder to where it is built anew, and remove the rest.

    Raises:
        InputError: the files that it was prepared from are no longer what they were.
    """
    bad = damage(folder)
    lost = {name.partition("/")[0] for name in bad}
    for name in list(lost):
        lost |= FOLLOWS.get(name, set())
    if SOURCES not in lost:
        verify(folder)
    shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
    warnings.warn(f"{folder}: damaged or missing: {shown}. It is prepared anew.", stacklevel=2)
    for name in EVERYTHING - lost:
        if (folder / name).exists() and not (parts / name).exists():
            os.rename(folder / name, parts / name)
    for other in folder.iterdir():
        if other.name != MANIFEST:
            remove(other)
    remove(folder)


def verify(folder: Path) -> None:
    """Compare the content of the source files with what was prepared.

    Raises:
        InputError: a file is another, or gone.
    """
    for path, expected in json.loads((folder / SOURCES).read_text("utf-8")).items():
        refuse_odd(Path(path))
        got = sha256_of(Path(path))
        if got != expected:
            raise InputError(
                f"{path} as it was prepared (sha256 {expected[:12]}...)",
                f"sha256 {got[:12]}..., though size and time are unchanged",
                f"remove {folder} to prepare it anew, or restore the file",
            )


def _sizes(folder: Path) -> dict[str, int]:
    """Of all files but the manifest, by their name in the folder; -1 of what is no plain file."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size if path.is_file() else -1
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and path != folder / MANIFEST
    }


def _check(told: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(told, sort_keys=True).encode()).hexdigest()
