"""A small task and a config of it, in a folder of their own."""

from pathlib import Path

import pytest
from isolation import clean_module, clean_process  # noqa: F401, autouse fixtures
from typer.testing import CliRunner

from benchmarks.soak import write_task
from negcache.run.cli.app import app

CONFIG = """\
steps = 6
batch_size = 16
device = "cpu"
log_every = 3
checkpoint_every = 3
data = {{ source = "{source}", vocab_size = 400 }}
tower = {{ dim = 8 }}
sampler = {{ name = "cached" }}
cache = {{ refresh_rows = 5 }}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A folder with ``task`` and ``small.toml``."""
    folder = tmp_path_factory.mktemp("cli")
    source = write_task(folder / "task")
    (folder / "small.toml").write_text(CONFIG.format(source=source))
    return folder


@pytest.fixture
def call():
    """Call the command line in this process: ``call("train", path)`` -> result."""
    return lambda *words, **more: CliRunner().invoke(app, [str(word) for word in words], **more)


@pytest.fixture
def refused(call):
    """The one clean message of a command that must be refused, as one line."""

    def refuse(*words: object) -> str:
        result = call(*words)
        assert result.exit_code == 2, (result.output, result.exception)
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert result.stderr.startswith("Expected ")
        assert "To fix this: " in result.stderr
        return result.stderr

    return refuse
