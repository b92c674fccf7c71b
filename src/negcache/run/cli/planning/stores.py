"""Which store a run should have, by what is known of its items and the memory there is."""

from negcache.run.cli.planning.capacity import Capacity
from negcache.run.cli.planning.memory import file_bytes
from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.run.cli.planning.readable import readable

FLOAT, HALF, AGE = 4, 2, 4
"""Bytes of a number, and of the step of a row's last write."""

LANDMARKS = 64
"""Columns of low-rank coordinates, besides the ones."""


def chosen_store(planned: PlannedRun, capacity: Capacity) -> str:
    """The first that fits into half the memory where rows live, and why; one line.

    A streaming cache where items come by; else a row for every item in 32 bits, then in 16, then
    coordinates of 65 numbers, if a row has more; then rows in a file, on half the disk; else rows
    of some of the items.
    """
    config, dim = planned.config, planned.tower.dim
    if not planned.cost.keeps_cache:
        return f'none, as sampler.name "{config.sampler.name}" draws from no stored rows'
    if planned.is_streaming:
        held = f"{planned.all_rows:,} rows of at most {planned.facts.num_items:,} items"
        where = f", in files of {readable(file_bytes(planned))}" if planned.on_disk else ""
        return f"streaming, as items come by and are never all at hand; {held}{where}"
    if planned.on_disk:
        taken = f"{readable(file_bytes(planned))} of {readable(capacity.disk)} of free disk"
        return f"dense in files, as cache.on_disk says; its {planned.all_rows:,} rows take {taken}"
    room = (capacity.host if capacity.device is None else capacity.device) // 2
    items, there = planned.rows, f"{readable(room)}, half the memory there is"
    wanted = [
        ("dense", dim * FLOAT + AGE),
        ('dense with cache.dtype "bfloat16"', dim * HALF + AGE),
    ]
    if dim > LANDMARKS + 1:
        low_rank = f"low-rank, LowRankCache(landmarks={LANDMARKS}, dtype=torch.bfloat16) in Python"
        wanted.append((low_rank, (LANDMARKS + 1) * HALF + AGE))
    for name, each in wanted:
        if items * each <= room:
            taken = readable(items * each)
            return f"{name}, as its {items:,} rows take {taken} of {there}"
    taken = planned.all_rows * (dim * FLOAT + AGE)
    if capacity.device is None and taken <= capacity.disk // 2:
        disk = f"{readable(taken)} of {readable(capacity.disk)} of free disk"
        return f"dense with cache.on_disk, as its {planned.all_rows:,} rows take {disk}"
    some = room // (dim * HALF + AGE)
    return (
        f"subset, SubsetCache(size={some:,}) in Python, as no row for every item fits into {there}"
    )
