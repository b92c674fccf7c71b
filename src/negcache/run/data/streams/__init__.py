"""Training data that is read as it is needed, from many files: pairs, or items alone."""

from negcache.run.data.streams.batch import (
    ITEMS,
    PAIRS,
    Identities,
    StreamBatch,
    StreamColumns,
)
from negcache.run.data.streams.batch_items import BatchItems
from negcache.run.data.streams.files import ShardFile, find_files
from negcache.run.data.streams.ids import Ids, hash_ids
from negcache.run.data.streams.known import known_positives
from negcache.run.data.streams.order import WindowOrder
from negcache.run.data.streams.prepared import PreparedBatches
from negcache.run.data.streams.sharded_table import ShardedTable
from negcache.run.data.streams.stream import Stream, check_alike_ids
from negcache.run.data.streams.stream_pairs import StreamPairs
from negcache.run.data.streams.texts_by_id import TextsById
from negcache.run.data.streams.tokenizing import ToBags, Tokenize, TokenizedBatch, WithTokens

__all__ = [
    "ITEMS",
    "PAIRS",
    "BatchItems",
    "Identities",
    "Ids",
    "PreparedBatches",
    "ShardFile",
    "ShardedTable",
    "Stream",
    "StreamBatch",
    "StreamColumns",
    "StreamPairs",
    "TextsById",
    "ToBags",
    "Tokenize",
    "TokenizedBatch",
    "WindowOrder",
    "WithTokens",
    "check_alike_ids",
    "find_files",
    "hash_ids",
    "known_positives",
]
