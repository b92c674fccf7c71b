"""Checkpoints: written whole, synced, renamed; safetensors and JSON; every file has its sha256.

Several processes write one together: each the tensors that it alone has, and its share of those
that all have. Any number of processes reads it.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from negcache.distributed import ALONE, Mesh
from negcache.errors import InputError
from negcache.packing import merge, pack, prune, tensor_names, unpack
from negcache.run.atomic import atomic_write, sync, writing
from negcache.run.checksum import sha256_of
from negcache.run.formats import check_format
from negcache.run.together import on_first

STATE, MANIFEST = "state.json", "manifest.json"

FORMAT = 1
"""Of checkpoints; another one is refused."""


Wanted = Callable[[str], bool]
"""Whether an entry of this name is to be read."""


def _everything(_name: str) -> bool:
    return True


@dataclass(frozen=True)
class Checkpoints:
    """The newest checkpoints of a run and its best, in ``step-*`` folders.

    Args:
        folder: where they live; made when the first is saved.
        keep: how many of the newest survive a save, and with each the one it names as best.
        mesh: the processes that save and load together.
    """

    folder: Path
    keep: int = 2
    mesh: Mesh = ALONE

    def paths(self) -> list[Path]:
        """Finished checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".damaged")

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> Path:
        """Write one checkpoint; the older ones are untouched unless it succeeds.

        Args:
            step: its number.
            state: nested tensors, numbers, strings, lists, dictionaries. What several processes
                have under one name is the same on all.
            best: number of the best so far, this one or one that was saved; None: none is known.
        """
        target = self._path(step)
        tree, tensors = pack(state)
        tree = reduce(merge, self.mesh.objects(tree))
        with writing(target), ExitStack() as stack:
            part = None
            if self.mesh.rank == 0:
                for left in self.folder.glob(".step-*"):  # of a process that was killed
                    shutil.rmtree(left)
                part = stack.enter_context(atomic_write(target))
                part.mkdir()
            shared = self.mesh.objects(part)[0]
            _write_tensors(tensors, shared, self.mesh)
            if part is not None:
                _finish(part, tree, {"format": FORMAT, "step": step, "best": best})
        if self.mesh.rank == 0:
            sync(self.folder)
            self._rotate()
        self.mesh.objects(None)  # nobody goes on before it has its name
        return target

    @property
    def newest(self) -> int | None:
        """Number of the newest checkpoint; None where there is none."""
        paths = self.paths()
        return _number(paths[-1]) if paths else None

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

    def digest(self, step: int) -> str:
        """What the checkpoint with this number holds, as hex digits."""
        return sha256_of(self._path(step) / MANIFEST)

    def load_step(self, step: int, wanted: Wanted = _everything) -> dict[str, Any]:
        """State of the checkpoint with this number.

        Args:
            wanted: which entries of dictionaries to read, by name.
        """
        on_first(self.mesh, partial(_verify, self._path(step)))
        return _read(self._path(step), wanted, self.mesh)

    def load(
        self, wanted: Wanted = _everything, *, fall_back: bool = False
    ) -> dict[str, Any] | None:
        """State of the newest checkpoint; None when there is none.

        Args:
            wanted: which entries of dictionaries to read, by name.
            fall_back: where the newest is damaged, take the newest intact one; the damaged ones
                are renamed to ``*.damaged``, nothing is deleted.
        """
        path = on_first(self.mesh, partial(self._newest, fall_back))
        return None if path is None else _read(path, wanted, self.mesh)

    def _newest(self, fall_back: bool) -> Path | None:
        """The newest checkpoint, verified; damaged ones are set aside."""
        damaged: list[Path] = []
        for path in reversed(self.paths()):
            try:
                _verify(path)
            except DamageError:
                if not fall_back:
                    raise
                damaged.append(path)
                continue
            for bad in damaged:
                earlier = len(list(self.folder.glob(f"{bad.name}*.damaged")))
                bad.rename(bad.with_name(f"{bad.name}.{earlier}.damaged"))
            return path
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


def _write_tensors(tensors: dict[str, Tensor], folder: Path, mesh: Mesh) -> None:
    """Each tensor once, by one of the processes that have it."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _quiet():
            save(tensors, storage_writer=writer, process_group=mesh.group, no_dist=mesh.size == 1)
    except CheckpointException as error:  # its own text holds every traceback
        failed = [failure for failure, _ in error.failures.values()]
        told = OSError("; ".join(map(str, failed)))
        told.errno = next((one.errno for one in failed if isinstance(one, OSError)), None)
        raise told from error


def _finish(part: Path, tree: Any, manifest: dict[str, Any]) -> None:
    """What one process writes when all have written: the tree, then what was written."""
    (part / STATE).write_text(json.dumps(tree), encoding="utf-8")
    hashes = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
    (part / MANIFEST).write_text(json.dumps(manifest | {"sha256": hashes}))
    for path in (*part.iterdir(), part):
        sync(path)


def _read(path: Path, wanted: Wanted, mesh: Mesh) -> dict[str, Any]:
    """The entries that are wanted of a checkpoint that is known to be intact."""
    tree = prune(json.loads((path / STATE).read_text(encoding="utf-8")), wanted)
    reader = HuggingFaceStorageReader(str(path))
    found = reader.read_metadata().state_dict_metadata
    there = {name: one for name, one in found.items() if isinstance(one, TensorStorageMetadata)}
    names = tensor_names(tree)
    if missing := [name for name in names if name not in there]:
        raise _damage(path, f"{missing[0]} and {len(missing) - 1} more tensors are missing")
    tensors = {
        name: torch.empty(there[name].size, dtype=there[name].properties.dtype) for name in names
    }
    with _quiet():
        load(tensors, storage_reader=reader, process_group=mesh.group, no_dist=mesh.size == 1)
    return unpack(tree, tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of what is meant: that one process saves alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", module="torch")
        yield


def _verify(path: Path) -> Path:
    """Compare every file of a checkpoint with what was written."""
    for name, wanted in _manifest(path)["sha256"].items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise _damage(path / name, str(error)) from error
        if found != wanted:
            raise _damage(path / name, f"sha256 {found[:12]}... instead of {wanted[:12]}...")
    return path


def _manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: its step, the best step so far, the sha256 of its files."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        hashes = {name: str(found) for name, found in manifest["sha256"].items()}
        hashes[STATE]  # at least
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damage(path / MANIFEST, str(error)) from error
    check_format(manifest.get("format"), FORMAT, path / MANIFEST)
    return manifest | {"sha256": hashes}


def _number(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name.removeprefix("step-"))


class DamageError(InputError):
    """A file is not as it was written."""


def _damage(file: Path, how: str) -> DamageError:
    return DamageError(
        "an intact checkpoint",
        f"a damaged file {file} ({how})",
        "restore it from a copy, or take another: resume --fall-back, evaluate --checkpoint STEP",
    )
