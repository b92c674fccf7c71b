"""Where prepared tasks and downloads are kept."""

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_folder(chosen: Path | str | None = None) -> Path:
    """The folder given, else ``$NEGCACHE_CACHE``, else the user's cache folder."""
    return Path(chosen or os.environ.get("NEGCACHE_CACHE") or user_cache_dir("negcache")).absolute()
