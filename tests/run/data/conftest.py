import pytest


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path_factory, monkeypatch):
    """Nothing a test prepares reaches the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NEGCACHE_CACHE", str(folder))
    return folder
