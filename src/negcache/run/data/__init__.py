"""Data: tasks read from BEIR folders or built in, tokenized once into memory-mapped files.

Names that need the ``run`` extra (pyarrow, tokenizers) are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from negcache.run.data.judgements import Judgements
from negcache.run.data.tokens import TokenFile, write_tokens

if TYPE_CHECKING:
    from negcache.run.data.columns import Columns
    from negcache.run.data.entities import Entities
    from negcache.run.data.interaction_log import open_interactions
    from negcache.run.data.interactions import Interactions
    from negcache.run.data.labels import LabelledPoints
    from negcache.run.data.open import open_task
    from negcache.run.data.task import Task
    from negcache.run.data.texts import TextTable
    from negcache.run.data.wordnet import BUILT_IN
    from negcache.run.data.write import write_beir
    from negcache.run.data.xc import XCTask, open_xc, read_xc, write_xc

__all__ = [
    "BUILT_IN",
    "Columns",
    "Entities",
    "Interactions",
    "Judgements",
    "LabelledPoints",
    "Task",
    "TextTable",
    "TokenFile",
    "XCTask",
    "open_interactions",
    "open_task",
    "open_xc",
    "read_xc",
    "write_beir",
    "write_tokens",
    "write_xc",
]

_HOMES = {
    "BUILT_IN": "wordnet",
    "Columns": "columns",
    "Entities": "entities",
    "Interactions": "interactions",
    "LabelledPoints": "labels",
    "Task": "task",
    "TextTable": "texts",
    "XCTask": "xc",
    "open_interactions": "interaction_log",
    "open_task": "open",
    "open_xc": "xc",
    "read_xc": "xc",
    "write_beir": "write",
    "write_xc": "xc",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
