"""The house as it is promised: imports go down, the sampler to copy stays short."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

from negcache.estimators import softmax_loss
from negcache.samplers import uniform

ROOT = Path(__file__).parent.parent


def test_imports_only_go_down():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_face_needs_only_torch_numpy_and_safetensors():
    """Whatever else there is, jaxtyping included, is as if it were not installed."""
    script = """
import sys, torch, numpy
allowed = {name.partition(".")[0] for name in sys.modules} | sys.stdlib_module_names
allowed |= {"negcache", "safetensors"}

class OnlyTheseThere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, OnlyTheseThere())
import negcache
for name in negcache.__all__:
    getattr(negcache, name)
loss = negcache.estimators.softmax_loss(torch.zeros(2), torch.zeros(2, 3))
assert loss.isfinite().all(), loss
assert "jaxtyping" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shapes_are_checked_in_tests_and_nowhere_else():
    """Elsewhere they would be evaluated anew in every step, by functions made in it."""
    with pytest.raises(jaxtyping.TypeCheckError):
        softmax_loss(torch.zeros(2), torch.zeros(3, 3))
    script = "import sys, negcache; sys.exit('jaxtyping' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_sampler_to_copy_is_short():
    assert len(inspect.getsource(uniform).splitlines()) <= 80


def test_files_and_functions_stay_small():
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text()
        assert len(text.splitlines()) <= 300, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.end_lineno - node.body[0].lineno + 1  # a signature may take its lines
                positional = [a for a in node.args.args if a.arg != "self"]
                assert body <= 40, f"{file.name}: {node.name} has {body} lines"
                assert len(positional) <= 6, f"{file.name}: {node.name}"
