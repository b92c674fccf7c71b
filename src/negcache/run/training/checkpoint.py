"""Checkpoints: written whole, synced, renamed; safetensors and JSON; every file has its sha256."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    """The newest checkpoints of a run and its best, in ``step-*`` folders.

    Args:
        folder: where they live; made when the first is saved.
        keep: how many of the newest survive a save, and with each the one it names as best.
    """

    folder: Path
    keep: int = 2

    def paths(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> Path:
        """Write one checkpoint; the older ones are untouched unless it succeeds.

        Args:
            step: its number.
            state: nested tensors, numbers, strings, lists, dictionaries.
            best: number of the best so far, this one or one that was saved; None: none is known.
        """
        target = self._path(step)
        for left in self.folder.glob(".step-*"):  # of a process that was killed
            shutil.rmtree(left)
        tree, tensors = pack(state)
        with writing(target), atomic_write(target) as part:
            part.mkdir()
            save_file(tensors, part / TENSORS)
            (part / STATE).write_text(json.dumps(tree), encoding="utf-8")
            hashes = {name: sha256_of(part / name) for name in (TENSORS, STATE)}
            manifest = {"step": step, "best": best, "sha256": hashes}
            (part / MANIFEST).write_text(json.dumps(manifest))
            for path in (*part.iterdir(), part):
                _sync(path)
        _sync(self.folder)
        self._rotate()
        return target

    def best(self) -> int | None:
        """Number of the best checkpoint, as the newest names it; None where it names none."""
        paths = self.paths()
        return _manifest(paths[-1]).get("best") if paths else None

    def choose(self, word: str | None = None) -> int:
        """Number of a checkpoint.

        Args:
            word: "best", "newest" or a number; None: the best where there is one, else the newest.
        """
        kept = [_number(path) for path in self.paths()]
        if not kept:
            run = self.folder.parent
            remedy = f"train it: negcache resume {run}"
            raise InputError("a run with a checkpoint", f"none in {run}", remedy)
        match word:
            case None:
                chosen = self.best() or kept[-1]
            case "newest":
                chosen = kept[-1]
            case "best":
                chosen = self.best()
            case _:
                chosen = int(word) if word.isdecimal() else None
        if chosen is None or chosen not in kept:
            there = ", ".join(map(str, kept))
            raise InputError(
                f"a checkpoint: best (of a run with save_best), newest or a step ({there})",
                f"{word or chosen}",
                "name another --checkpoint",
            )
        return chosen

    def load_step(self, step: int) -> dict[str, Any]:
        """State of the checkpoint with this number."""
        return _read(self._path(step))

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

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _rotate(self) -> None:
        """Delete all but the newest and what these name as the best."""
        paths, named = self.paths(), set[int | None]()
        for path in paths[-self.keep :]:
            with suppress(InputError):  # damaged: it names none
                named.add(_manifest(path).get("best"))
        for path in paths[: -self.keep]:
            if _number(path) not in named:
                shutil.rmtree(path)


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
    for name, wanted in _manifest(path)["sha256"].items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise _damage(path / name, str(error)) from error
        if found != wanted:
            raise _damage(path / name, f"sha256 {found[:12]}... instead of {wanted[:12]}...")
    tree = json.loads((path / STATE).read_text(encoding="utf-8"))
    return unpack(tree, load_file(path / TENSORS))


def _manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: its step, the best step so far, the sha256 of its files."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        hashes = {name: str(manifest["sha256"][name]) for name in (TENSORS, STATE)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damage(path / MANIFEST, str(error)) from error
    return manifest | {"sha256": hashes}


def _number(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def _damage(file: Path, how: str) -> InputError:
    return InputError(
        "an intact checkpoint",
        f"a damaged file {file} ({how})",
        "restore it from a copy, or take another: resume --fall-back, evaluate --checkpoint STEP",
    )


def _sync(path: Path) -> None:
    """Ask the disk to keep a file or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
