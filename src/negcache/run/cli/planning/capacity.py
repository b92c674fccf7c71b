"""How much memory and disk there is, and whether a plan fits into it."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from negcache.errors import InputError
from negcache.run.cli.planning.memory import ALWAYS, LATER, Part, Where


@dataclass(frozen=True)
class Capacity:
    """Bytes there are.

    Args:
        device: free on the GPU; None: there is none, and the device's parts are the host's.
        host: memory of the machine, for each of the processes that a launcher started on it.
        disk: free where the run will lie.
    """

    device: int | None
    host: int
    disk: int

    def by_place(self) -> list[tuple[Where, int]]:
        """Where there is anything, and how much."""
        every: list[tuple[Where, int | None]] = [
            ("device", self.device),
            ("host", self.host),
            ("disk", self.disk),
        ]
        return [(where, amount) for where, amount in every if amount is not None]


@dataclass(frozen=True)
class Peak:
    """The most that is held at once in one place.

    Args:
        parts: what is held then, the largest first.
        when: the stage that holds the most.
    """

    bytes: int
    when: str
    parts: tuple[Part, ...]


def capacity_here(device: torch.device, folder: Path) -> Capacity:
    """What this machine has now.

    Args:
        device: that will train.
        folder: of the run; it need not exist.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    above = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    memory = psutil.virtual_memory().total // here
    return Capacity(free, memory, shutil.disk_usage(above).free)


def peak(parts: Iterable[Part], where: Where, *, on_gpu: bool) -> Peak:
    """What is always held, and the stage that adds most to it."""
    places = {"device", "host"} if where == "host" and not on_gpu else {where}
    here = [part for part in parts if part.where in places and part.when != LATER]
    kept = [part for part in here if part.when == ALWAYS]

    def held(stage: str) -> list[Part]:
        return [part for part in here if part.when == stage]

    stages = {part.when for part in here} - {ALWAYS}
    when = max(sorted(stages), key=lambda stage: _total(held(stage)), default=ALWAYS)
    most = [*kept, *(held(when) if when != ALWAYS else [])]
    most.sort(key=lambda part: part.bytes, reverse=True)
    return Peak(_total(most), when, tuple(most))


def check_fits(parts: Iterable[Part], capacity: Capacity) -> None:
    """Refuse what cannot fit.

    Raises:
        InputError: with the bytes needed, those there, and the keys to lower.
    """
    parts, on_gpu = list(parts), capacity.device is not None
    names = {"device": "memory of the device", "host": "memory", "disk": "free disk"}
    for where, amount in capacity.by_place():
        most = peak(parts, where, on_gpu=on_gpu)
        if most.bytes > amount:
            first = most.parts[0]
            raise InputError(
                f"a run that fits into {amount:,} bytes of {names[where]}",
                f"one that needs {most.bytes:,} or more, {first.bytes:,} of them for {first.name}",
                f"lower {first.lower}; negcache plan shows all parts",
            )


def _total(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)
