"""Files from the Debian registry, through the system's own apt, checked against pinned sha256."""

import hashlib
import shutil
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from negcache.errors import InputError
from negcache.run.data.aside import written_aside


@dataclass(frozen=True)
class Package:
    """A Debian package, pinned: the version to ask for and the sha256 of its .deb file."""

    name: str
    version: str
    sha256: str


def fetch_package(package: Package, cache: Path, *, allow_other_version: bool = False) -> Path:
    """Download a .deb once into the cache folder and check it; returns its path."""
    kept = cache / "downloads" / f"{package.name}_{package.sha256[:16]}.deb"
    if kept.exists() and sha256_of(kept) == package.sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with private_apt() as folder:
        wanted = package.name if allow_other_version else f"{package.name}={package.version}"
        _apt(Path(folder), "update")
        _apt(Path(folder), "download", wanted)
        [got] = Path(folder).glob(f"{package.name}_*.deb")
        if allow_other_version:
            kept = kept.with_name(got.name)
        else:
            check_sha256(f"{package.name} {package.version}", package.sha256, sha256_of(got))
        with written_aside(kept) as aside:
            shutil.copyfile(got, aside)
    return kept


def fetch_translation(suite: str) -> bytes:
    """English package descriptions of a Debian suite, as apt decompresses them."""
    with private_apt() as folder:
        _apt(Path(folder), "update", "-o", "Acquire::Languages=en")
        found = sorted(Path(folder).glob(f"lists/*_dists_{suite}_main_i18n_Translation-en*"))
        if not found:
            raise InputError(
                f"apt sources that hold Debian {suite} main",
                "no such Translation-en file after `apt-get update`",
                f"run this on Debian {suite}, in a container for instance",
            )
        helper = ["/usr/lib/apt/apt-helper", "cat-file", str(found[0])]
        return subprocess.run(helper, check=True, capture_output=True).stdout


def unpack(deb: Path, into: Path) -> None:
    """Extract the files of a .deb without installing it."""
    subprocess.run(["dpkg-deb", "-x", str(deb), str(into)], check=True, capture_output=True)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(name: str, expected: str, got: str) -> None:
    """Refuse data that is not the pinned version."""
    if got != expected:
        raise InputError(
            f"{name} with sha256 {expected}",
            f"sha256 {got}; the registry may have moved on",
            "allow it (--allow-other-version, allow_other_version=True), and expect other counts",
        )


def private_apt() -> AbstractContextManager[str]:
    """A temporary folder in which apt keeps its lists and cache, so the system's stay untouched."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError(
            "the tools apt-get and dpkg-deb",
            "a system without them",
            "run this on Debian or in a Debian container, and copy the folder it writes",
        )
    return TemporaryDirectory(prefix="negcache-apt-")


def _apt(folder: Path, verb: str, *arguments: str) -> None:
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    private = [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache"]
    options = [part for option in [*private, "APT::Sandbox::User="] for part in ("-o", option)]
    command = ["apt-get", "-q", *options, verb, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"`apt-get {verb} {' '.join(arguments)}` to succeed",
            last,
            "check the network and that apt's sources hold Debian bookworm main",
        )
