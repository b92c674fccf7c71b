"""The section of the docs runs as it stands, and a user's new lines are three."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


@pytest.mark.slow
def test_the_section_runs_with_three_lines_of_ours(tmp_path):
    section = PAGE.read_text().split("\n## sentence-transformers\n")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert snippet.count("# <-") == 3
    (tmp_path / "page.py").write_text(snippet)
    command = [sys.executable, tmp_path / "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ uniform, .* <- chosen$", done.stdout, re.MULTILINE), done.stdout
    (state,) = (tmp_path / "words" / "checkpoint-2").glob("loss_state-*.safetensors")
    assert state.is_file()
