"""Files from a registry, through its own client, checked against pinned sha256; never installed."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from negcache.errors import InputError
from negcache.run.atomic import atomic_write
from negcache.run.checksum import sha256_of


class Registry(NamedTuple):
    """Where packages come from.

    Args:
        pin: how its client is asked for a version, with places for name and version.
        ending: of its files.
        download: (what is asked for, folder, where the file will be kept) -> a file in the folder.
        moved: what to do where the file is another than the pinned one.
    """

    pin: str
    ending: str
    download: Callable[[str, Path, Path], None]
    moved: str


@dataclass(frozen=True)
class Package:
    """A package, pinned: the version to ask for and the sha256 of its file."""

    registry: Registry
    name: str
    version: str
    sha256: str


def fetch(package: Package, cache: Path, *, allow_other_version: bool = False) -> Path:
    """Download a package once into the cache folder and check it; returns its path.

    Args:
        package: what to fetch, from the registry that the client is set to use.
        cache: where downloads are kept.
        allow_other_version: take what the registry offers, whatever its checksum.

    Raises:
        InputError: there is no such client, it fails, or the file is another than the pinned one.
    """
    registry, plain = package.registry, package.name.lstrip("@").replace("/", "-")
    name = f"{plain}-{package.version}_{package.sha256[:16]}{registry.ending}"
    kept = cache / "downloads" / name
    if kept.exists() and sha256_of(kept) == package.sha256:
        return kept
    pinned = registry.pin.format(package.name, package.version)
    with TemporaryDirectory(prefix="negcache-fetch-") as folder:
        asked = package.name if allow_other_version else pinned
        registry.download(asked, Path(folder), kept)
        [got] = Path(folder).glob(f"*{registry.ending}")
        if allow_other_version:
            kept = kept.with_name(got.name)
        else:
            check_sha256(pinned, package.sha256, sha256_of(got), registry.moved)
        with atomic_write(kept) as part:
            shutil.copyfile(got, part)
    return kept


def check_sha256(name: str, expected: str, got: str, remedy: str) -> None:
    """Refuse data that is not the pinned version."""
    if got != expected:
        raise InputError(f"{name} with sha256 {expected}", f"sha256 {got}", remedy)


def unpack_deb(deb: Path, into: Path) -> None:
    """Extract the files of a .deb without installing it."""
    subprocess.run(["dpkg-deb", "-x", str(deb), str(into)], check=True, capture_output=True)


def unpack_npm(tgz: Path, into: Path) -> Path:
    """Extract a package without running anything of it; returns the folder of its files."""
    with tarfile.open(tgz) as archive:
        archive.extractall(into, filter="data")
    return into / "package"


def _deb(asked: str, folder: Path, _: Path) -> None:
    _apt(folder, "update")
    _apt(folder, "download", asked)


def _descriptions(asked: str, folder: Path, _: Path) -> None:
    _index(asked, folder, "i18n_Translation-en", "Acquire::Languages=en")


def _packages(asked: str, folder: Path, _: Path) -> None:
    _index(asked, folder, "binary-amd64_Packages", "APT::Architecture=amd64")


def _index(asked: str, folder: Path, name: str, option: str) -> None:
    """An index of a Debian suite, which apt fetches with an option, as apt decompresses it."""
    suite = asked.partition("/")[0]
    _apt(folder, "update", "-o", option)
    found = sorted(folder.glob(f"lists/*_dists_{suite}_main_{name}*"))
    if not found:
        raise InputError(
            f"apt sources that hold Debian {suite} main",
            f"no such {name} file after `apt-get update`",
            f"run this on Debian {suite}, in a container for instance",
        )
    helper = ["/usr/lib/apt/apt-helper", "cat-file", str(found[0])]
    text = subprocess.run(helper, check=True, capture_output=True).stdout
    (folder / f"{suite}-{hashlib.sha256(text).hexdigest()[:16]}.txt").write_bytes(text)


def _apt(folder: Path, verb: str, *arguments: str) -> None:
    """In a folder where apt keeps its lists and cache, so that the system's stay untouched."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError(
            "the tools apt-get and dpkg-deb",
            "a system without them",
            "run this on Debian or in a Debian container, and copy the folder it writes",
        )
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    private = [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache"]
    options = [part for option in [*private, "APT::Sandbox::User="] for part in ("-o", option)]
    client = f"apt-get {verb} {' '.join(arguments)}"
    remedy = "check the network and that apt's sources hold Debian bookworm main"
    _run(["apt-get", "-q", *options, verb, *arguments], folder, client, remedy)


def _wheel(asked: str, folder: Path, _: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    remedy = "check the network, and that this environment has pip"
    command = [*pip, "--only-binary=:all:", "--dest", str(folder), asked]
    _run(command, folder, f"pip download {asked}", remedy)


def _tarball(asked: str, folder: Path, kept: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        raise InputError(
            "the tool npm",
            "a system without it",
            f"install npm, or run `npm pack {asked}` elsewhere and save the file as {kept}",
        )
    pack = [npm, "pack", "--loglevel=error", "--ignore-scripts", "--pack-destination", str(folder)]
    remedy = "check the network, and the registry that npm is set to use"
    _run([*pack, asked], folder, f"npm pack {asked}", remedy)


def _run(command: list[str], folder: Path, client: str, remedy: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        told = "; ".join(done.stderr.strip().splitlines()[-3:]) or "no message"
        raise InputError(f"`{client}` to succeed", told, remedy)


_DEBIAN_MOVED = (
    "the registry may have moved on: allow it (--allow-other-version, allow_other_version=True), "
    "and expect other counts"
)
DEBIAN = Registry("{}={}", ".deb", _deb, _DEBIAN_MOVED)
DESCRIPTIONS = Registry("{}/{}", ".txt", _descriptions, _DEBIAN_MOVED)
"""Of the packages of a Debian suite, in the language that is asked for as its version."""
PACKAGES = Registry("{}/{}", ".txt", _packages, _DEBIAN_MOVED)
"""The packages of a Debian suite for amd64, and what they depend on."""
PYPI = Registry(
    "{}=={}",
    ".whl",
    _wheel,
    "look at which registry pip is set to use: a released wheel does not change",
)
NPM = Registry(
    "{}@{}",
    ".tgz",
    _tarball,
    "look at which registry npm is set to use: a released package does not change",
)
