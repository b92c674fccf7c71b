"""Run the tutorials as they stand, and keep the pictures that they draw.

python scripts/run_tutorials.py [NAME ...]     docs/tutorials/NAME.md -> docs/pictures/NAME.svg
"""

import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
SECONDS = 120
"""CPU seconds that a tutorial takes at most, on one thread; the wall may show more."""


def names() -> list[str]:
    return sorted(page.stem for page in (DOCS / "tutorials").glob("*.md"))


def run(name: str, folder: Path) -> str:
    """What a tutorial prints; its picture is then ``folder/NAME.svg``."""
    page = (DOCS / "tutorials" / f"{name}.md").read_text()
    script = folder / f"{name}.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    command = [sys.executable, "-W", "error", script]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5 * SECONDS)
    if done.returncode:
        raise RuntimeError(f"Expected {name} to run; got: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if took > SECONDS:
        raise RuntimeError(f"Expected {name} within {SECONDS} CPU seconds; it took {took:.0f}")
    return done.stdout


def main() -> None:
    for name in sys.argv[1:] or names():
        with tempfile.TemporaryDirectory() as folder:
            print(run(name, Path(folder)), end="")
            shutil.copy(Path(folder) / f"{name}.svg", DOCS / "pictures" / f"{name}.svg")


if __name__ == "__main__":
    main()
