"""Run the README's first snippet with the negcache that is installed, away from the sources.

python -I scripts/run_readme.py
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def main() -> int:
    snippet = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    told = "import negcache; print('negcache of', negcache.__file__)\n"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-c", told + snippet]
        return subprocess.run(command, cwd=folder, timeout=600).returncode


if __name__ == "__main__":
    sys.exit(main())
