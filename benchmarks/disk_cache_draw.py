"""What does one exact draw cost from more rows than memory: int8 rows in a file?

    python -m benchmarks.disk_cache_draw [--items 100000000] [--folder .data]

D = 64, 64 queries, 8 draws each, scale 20, one thread beside the one that reads ahead. Rows are
random bytes (random directions) with scales that make them unit vectors; the file is made once and
deleted at the end; where the disk has no room for it, as many rows are taken as fit in half of what
is free.

In turn, pages of the file dropped before each: the draw; a plain sequential read of the same bytes;
and, without the file, integer products of as many rows that stay in the cache with the compiled
exponentials over them (``bare``). ``ratio_to_floor``: the draw to the larger of the two, on the
wall. ``load``: of the machine in the last five minutes; where that is more than it has cores, wall
seconds are those of others too, and CPU seconds say more. Peak resident memory is that of a child
process that opens the filled file, and draws. Its table keeps a byte a row in memory, its draw the
masses of 128 rows for each query.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import negcache as nc
from benchmarks.draw_cost import peak_rss
from benchmarks.record import append_rows, conclude, hardware, read_rows
from negcache.draws import draw
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.ops.drawn_blocks import BLOCK
from negcache.ops.quantized import quantize
from negcache.stores.file_table import FileTable
from negcache.stores.integer_masses import DOTS

NAME, D, B, DRAWS, SCALE, FILLED = "disk_cache_draw", 64, 64, 8, 20.0, 1 << 18
WARM = 20_000


def request(num_items: int) -> Request:
    random = torch.Generator().manual_seed(1)
    queries = torch.nn.functional.normalize(torch.randn(B, D, generator=random), dim=1)
    targets = torch.randint(0, num_items, (B,), generator=random)
    exclude = Exclusion.from_pairs(torch.arange(B), targets, B)
    return Request(queries, nc.DotScore(1 / SCALE).requires_grad_(False), targets, exclude)


def table_of(store: nc.DenseCache) -> FileTable:
    assert isinstance(store.table, FileTable)
    return store.table


def fill(path: Path, num_items: int) -> dict[str, Any]:
    """Write all rows, past the journal: nothing is worth going back to. Returns the state."""
    store = nc.DenseCache(num_items, D, dtype=torch.int8, path=path)
    store.write(torch.arange(2), torch.ones(2, D))
    random, file = torch.Generator().manual_seed(0), table_of(store).file
    for first in range(0, num_items, FILLED):
        slots = torch.arange(first, min(first + FILLED, num_items))
        codes = torch.randint(-127, 128, (len(slots), D), dtype=torch.int8, generator=random)
        scales = codes.float().norm(dim=1, keepdim=True).reciprocal()
        written = torch.zeros(len(slots), 1)
        file.write(slots, {"codes": codes, "scales": scales, "written": written})
    return store.state_dict()


def drop_pages(path: Path) -> None:
    """What is read next comes from the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequential_read(path: Path, num_items: int) -> None:
    """The bytes that a pass over the rows needs, into one piece of memory."""
    memory, left = bytearray(1 << 22), num_items * (D + 4)
    with path.open("rb", buffering=0) as file:
        while left > 0:
            left -= os.readv(file.fileno(), [memoryview(memory)[: min(len(memory), left)]])


def bare(num_items: int) -> None:
    """Products and exponentials of as many rows, which are always the same."""
    from negcache.compiled.block_masses import Masked, masses_of_blocks

    queries, none = request(num_items).queries, torch.zeros(0, dtype=torch.long).numpy()
    (codes, scales), step = quantize(queries), DOTS // B
    columns, memory = codes.T.contiguous(), torch.empty(step, B, dtype=torch.int32)
    block = quantize(torch.randn(step, D))
    bias, out = torch.zeros(step).numpy(), torch.empty(step // BLOCK, B).numpy()
    slopes, rows = (scales * SCALE).numpy(), block.scales.numpy()
    for _ in range(0, num_items, step):
        dots = torch._int_mm(block.codes, columns, out=memory)  # type: ignore[attr-defined]
        masses_of_blocks(dots.numpy(), Masked(none, none), slopes, rows, bias, out)


def seconds_of(run: Any, *arguments: Any) -> tuple[float, float]:
    """On the wall, and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    run(*arguments)
    return time.perf_counter() - start, time.process_time() - cpu


def child(path: Path, num_items: int, state: Path) -> None:
    """Open, draw, time, in a process of its own; prints seconds and peak resident bytes."""
    store = nc.DenseCache(num_items, D, dtype=torch.int8, path=path)
    store.load_state_dict(json.loads(state.read_text()))
    assert bool(store.valid.all())
    sampler, wanted = nc.CachedSoftmax(store, DRAWS), request(num_items)
    small = nc.DenseCache(WARM, D, dtype=torch.int8)  # compiles, or reads what is compiled
    small.write(torch.arange(WARM), torch.randn(WARM, D))
    draw(nc.CachedSoftmax(small, DRAWS), request(WARM), torch.Generator())
    drop_pages(path)
    taken = seconds_of(draw, sampler, wanted, torch.Generator().manual_seed(2))
    print(*taken, peak_rss())


def measure(path: Path, num_items: int, repeats: int) -> dict[str, Any]:
    state = path.with_name(f"{path.name}.state")
    state.write_text(json.dumps(fill(path, num_items)))
    bare(WARM)
    names = ("draw_s", "draw_cpu_s", "read_s", "read_cpu_s", "bare_s", "bare_cpu_s", "peak")
    found: dict[str, list[float]] = {name: [] for name in names}
    module = [sys.executable, "-m", "benchmarks.disk_cache_draw"]
    for _ in range(repeats):
        words = ["--child", str(path), str(state), "--items", str(num_items)]
        told = subprocess.run([*module, *words], check=True, capture_output=True, text=True)
        *taken, peak = map(float, told.stdout.split())
        drop_pages(path)
        taken += [*seconds_of(sequential_read, path, num_items), *seconds_of(bare, num_items)]
        for values, figure in zip(found.values(), [*taken, peak], strict=True):
            values.append(figure)
        print({name: values[-1] for name, values in found.items()}, flush=True)
    middle = {name: round(statistics.median(found[name]), 2) for name in found if name != "peak"}
    floor = max(middle["read_s"], middle["bare_s"])
    return middle | {
        "items": num_items,
        "gigabytes": round(path.stat().st_size / 1e9, 2),
        "ratio_to_floor": round(middle["draw_s"] / floor, 3),
        "load": round(os.getloadavg()[1], 1),
        "peak_rss_gb": round(max(found["peak"]) / 1e9, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / ".data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        return child(options.child[0], options.items, options.child[1])
    options.folder.mkdir(exist_ok=True)
    fits = shutil.disk_usage(options.folder).free // (2 * (D + 8))
    num_items, path = min(options.items, fits), options.folder / "rows_of_disk_cache_draw"
    if num_items < options.items:
        print(f"{num_items} rows of {options.items}: no room for more", flush=True)
    try:
        row = measure(path, num_items, options.repeats)
    finally:
        for left in options.folder.glob(f"{path.name}*"):
            left.unlink()
    append_rows(NAME, [row | hardware()])
    newest = read_rows(NAME)[-1]
    told = (name for name in newest if name not in hardware())
    conclude(NAME, {name: float(newest[name]) for name in told})


if __name__ == "__main__":
    main()
