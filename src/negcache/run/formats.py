"""What is written says in which format: another one is refused by name, not misread."""

from pathlib import Path
from typing import Any

from negcache.errors import InputError


def check_format(found: Any, known: int, what: Path) -> None:
    """Refuse what another version wrote in another way.

    Args:
        found: the format that it tells; None: it tells none.
        known: the one that is read here.
        what: tells it.
    """
    if found == known and type(found) is int:
        return
    if isinstance(found, int) and found > known:
        told, remedy = f"{found}, of a newer negcache", "read it with that one: pip install -U"
    else:
        told = "none, of an older negcache" if found is None else f"{found!r}"
        remedy = "read it with the version that wrote it, or make it anew elsewhere"
    raise InputError(f"format {known} in {what}", told, remedy)
