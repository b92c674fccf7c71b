"""Files and folders of a config by their whole path."""

from pathlib import Path

from negcache.run.training import Config


def with_whole_paths(config: Config) -> Config:
    """Files and folders by their whole path: found from wherever the run is resumed."""
    data, tower = config.data, config.tower
    paths = {name: _whole(getattr(data, name)) for name in ("source", "negatives", "tokenizer")}
    patterns = {name: _whole_pattern(getattr(data, name)) for name in ("pairs", "items")}
    return config.model_copy(
        update={
            "data": data.model_copy(update=paths | patterns),
            "tower": tower.model_copy(update={"folder": _whole(tower.folder)}),
        }
    )


def _whole(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


def _whole_pattern(address: str | None) -> str | None:
    """Of files on this disk; an address with a protocol is whole."""
    if address is None or "://" in address:
        return address
    return str(Path(address).absolute())
