"""Faults that the tests must see: each is put into a copy of the library, and a test must fail.

``python -m tests.mutants [word]`` runs those whose name holds the word; exit code 1: one lives.
A mutant whose text is no longer there is an error: move it to where the idea went.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
PARTS = sorted({file.stem for file in Path(__file__).parent.glob("*.py")} - {"__main__", "mutant"})
MUTANTS = [mutant for part in PARTS for mutant in import_module(f"tests.mutants.{part}").MUTANTS]


def run(source: Path, tests: str) -> int:
    """pytest's exit code for these tests over that copy of the library."""
    settings = {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile=mutants", *tests.split()]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, check=False
    ).returncode


def verdict(source: Path, mutant: Mutant) -> str:
    """``killed``, ``LIVES``, or what went wrong with the mutant itself."""
    file = source / "negcache" / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        return f"NO PLACE: the old text is there {text.count(mutant.old)} times"
    file.write_text(text.replace(mutant.old, mutant.new))
    code = run(source, mutant.tests)
    file.write_text(text)
    return {0: "LIVES", 1: "killed"}.get(code, f"NO RUN: pytest said {code}")


def main(word: str = "") -> int:
    chosen = [mutant for mutant in MUTANTS if word in mutant.name]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        if run(source, " ".join({mutant.tests: None for mutant in chosen})):
            print("The tests fail, or are not found, without any mutant.")
            return 1
        verdicts = []
        for mutant in chosen:
            verdicts.append(verdict(source, mutant))
            print(f"{mutant.name:56} {verdicts[-1]}", flush=True)
    print(f"{verdicts.count('killed')} of {len(chosen)} killed")
    return int(set(verdicts) != {"killed"})


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
