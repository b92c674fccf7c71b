"""Training data that is read as it is needed, from many files: pairs, or items alone."""

from negcache.run.data.streams.batch import (
    ITEMS,
    PAIRS,
    Identities,
    StreamBatch,
    StreamColumns,
)
from negcache.run.data.streams.files import ShardFile, find_files
from negcache.run.data.streams.ids import Ids, hash_ids
from negcache.run.data.streams.order import WindowOrder
from negcache.run.data.streams.prepared import PreparedBatches
from negcache.run.data.streams.sharded_table import ShardedTable
from negcache.run.data.streams.stream import Stream, check_alike_ids
from negcache.run.data.streams.texts_by_id import TextsById
from negcache.run.data.streams.tokenizing import ToBags, Tokenize, TokenizedBatch

__all__ = [
    "ITEMS",
    "PAIRS",
    "Identities",
    "Ids",
    "PreparedBatches",
    "ShardFile",
    "ShardedTable",
    "Stream",
    "StreamBatch",
    "StreamColumns",
    "TextsById",
    "ToBags",
    "Tokenize",
    "TokenizedBatch",
    "WindowOrder",
    "check_alike_ids",
    "find_files",
    "hash_ids",
]
