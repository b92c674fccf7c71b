"""Checkpoints: written whole, synced, renamed; safetensors and JSON; every file has its sha256."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from negcache.errors import InputError
from negcache.packing import pack, unpack
from negcache.run.atomic import atomic_write
from negcache.run.checksum import sha256_of

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoints:
    """The newest ``keep`` checkpoints of a run, in ``step-*`` folders.

    Args:
        folder: where they live; made when the first is saved.
        keep: how many of the newest survive a save.
    """

    folder: Path
    keep: int = 2

    def paths(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write one checkpoint; the older ones are untouched unless it succeeds.

        Args:
            step: its number.
            state: nested tensors, numbers, strings, lists, dictionaries.
        """
        target = self.folder / f"step-{step:09d}"
        for left in self.folder.glob(".step-*"):  # of a process that was killed
            shutil.rmtree(left)
        tree, tensors = pack(state)
        with writing(target), atomic_write(target) as part:
            part.mkdir()
            save_file(tensors, part / TENSORS)
            (part / STATE).write_text(json.dumps(tree), encoding="utf-8")
            hashes = {name: sha256_of(part / name) for name in (TENSORS, STATE)}
            (part / MANIFEST).write_text(json.dumps({"step": step, "sha256": hashes}))
            for path in (*part.iterdir(), part):
                _sync(path)
        _sync(self.folder)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)
        return target

    def load(self, *, fall_back: bool = False) -> dict[str, Any] | None:
        """State of the newest checkpoint; None when there is none.

        Args:
            fall_back: where the newest is damaged, take the newest intact one; the damaged ones
                are renamed to ``*.damaged``, nothing is deleted.
        """
        damaged: list[Path] = []
        for path in reversed(self.paths()):
            try:
                state = _read(path)
            except InputError:
                if not fall_back:
                    raise
                damaged.append(path)
                continue
            for bad in damaged:
                earlier = len(list(self.folder.glob(f"{bad.name}*.damaged")))
                bad.rename(bad.with_name(f"{bad.name}.{earlier}.damaged"))
            return state
        if damaged:
            raise InputError(
                "an intact checkpoint",
                f"{len(damaged)} damaged ones in {self.folder}",
                "restore the files from a copy, or train anew into another folder",
            )
        return None


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """A failing write, most often a full disk, becomes a clear error."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"to write {what}",
            str(error),
            "make room on the disk, then resume; earlier checkpoints are untouched",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """Verify every file of a checkpoint, then read it."""
    try:
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        expected = {name: str(hashes[name]) for name in (TENSORS, STATE)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damage(path / MANIFEST, str(error)) from error
    for name, wanted in expected.items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise _damage(path / name, str(error)) from error
        if found != wanted:
            raise _damage(path / name, f"sha256 {found[:12]}... instead of {wanted[:12]}...")
    tree = json.loads((path / STATE).read_text(encoding="utf-8"))
    return unpack(tree, load_file(path / TENSORS))


def _damage(file: Path, how: str) -> InputError:
    return InputError(
        "an intact checkpoint",
        f"a damaged file {file} ({how})",
        "restore the file from a copy, or take the checkpoint before it: resume --fall-back",
    )


def _sync(path: Path) -> None:
    """Ask the disk to keep a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
