"""The config of a small run over the streams of ``wordnet_slice``: what tests begin with."""

from pathlib import Path

CONFIG = """\
steps = {steps}
batch_size = 16
device = "cpu"
{top}
[data]
pairs = "{folder}/{pairs}/*.parquet"
items = "{folder}/items"
items_per_step = 8
window = 3
vocab_size = 400
{data}
[tower]
dim = 8
[cache]
kind = "streaming"
size = {size}
refresh_rows = 4
{cache}
"""


def write_config(
    path: Path, *, steps: int, size: int, pairs: str = "pairs",
    top: str = "checkpoint_every = 4", data: str = "", cache: str = 'row_weight = "dedup"',
) -> Path:  # fmt: skip
    """A run over the streams beside the file; further lines at the top, of data and of the cache.

    Args:
        pairs: folder of their shards.
    """
    settings = {"steps": steps, "size": size, "folder": path.parent, "pairs": pairs}
    path.write_text(CONFIG.format(top=top, data=data, cache=cache, **settings))
    return path
