"""The house as it is promised: imports go down, the sampler to copy stays short."""

import inspect
import subprocess
import sys
from pathlib import Path

from negcache.samplers import uniform

ROOT = Path(__file__).parent.parent


def test_imports_only_go_down():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_face_needs_only_torch_and_numpy():
    script = (
        "import sys, negcache; extra = {'pyarrow', 'tokenizers', 'accelerate', 'typer', 'rich',"
        " 'ir_measures', 'pydantic'} & set(sys.modules); assert not extra, extra"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_sampler_to_copy_is_short():
    assert len(inspect.getsource(uniform).splitlines()) <= 80


def test_files_stay_small():
    for file in (ROOT / "src").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 300, file
