"""A small task on disk, and runs over it."""

import json

import pytest
from isolation import clean_module, clean_process  # noqa: F401, autouse fixtures

from benchmarks.soak import write_task
from negcache.run.cli import runs
from negcache.run.training.config import parse_config


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("small") / "task")


@pytest.fixture
def config(task_folder):
    """Build a config from dotted keys over small defaults."""

    def make(**tables):
        values = {
            "data": {"source": str(task_folder), "vocab_size": 400},
            "tower": {"dim": 8},
            "cache": {"refresh_rows": 5},
            "steps": 12,
            "batch_size": 16,
            "device": "cpu",
            "log_every": 5,
            "eval_every": 8,
            "checkpoint_every": 4,
        }
        tables["sampler"] = {"name": "cached"} | tables.get("sampler", {})
        return parse_config(values | tables)

    return make


@pytest.fixture
def start(tmp_path, config):
    """Start a run in a new folder."""

    def make(name="run", **tables):
        return runs.start(config(**tables), tmp_path / name)

    return make


@pytest.fixture
def lines():
    """Lines of a run's metrics."""

    def read(folder):
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return read
