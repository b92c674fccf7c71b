"""``negcache plan``: what a run will take, before anything of it is allocated."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from negcache.errors import visible
from negcache.run.cli.planning.batch import larger_batch
from negcache.run.cli.planning.capacity import Capacity, capacity_here, check_fits, peak
from negcache.run.cli.planning.memory import Part, memory_parts
from negcache.run.cli.planning.planned_run import PlannedRun, planned_run
from negcache.run.cli.planning.readable import readable
from negcache.run.cli.planning.samplers import SAMPLER_COSTS
from negcache.run.cli.planning.seconds import Seconds, seconds_of, timed
from negcache.run.cli.planning.stores import chosen_store
from negcache.run.cli.planning.traffic import Sent, sent_by
from negcache.run.cli.planning.work import Work, work_of
from negcache.run.cli.sampling import check_word
from negcache.run.cli.sources import open_source
from negcache.run.data.streams.known import AT_ONCE, PAIR_BYTES, SORTING_BYTES, TABLE_BYTES
from negcache.run.training import Config
from negcache.run.training.trainer import check_shares, make_accelerator

MOST = 0.5
"""Share of a step that the draw may take without a warning."""


def plan(
    config: Config,
    folder: Path,
    processes: int = 1,
    capacity: Callable[[torch.device, Path], Capacity] = capacity_here,
) -> None:
    """Print bytes by part, encodings and flops; refuse, after that, what cannot fit here.

    Args:
        config: of the run.
        folder: where it would lie.
        processes: that train together; what is shown is of each, the one with most to do.
        capacity: says how much memory and disk there is.
    """
    check_word(config.sampler.name)
    check_shares(config.batch_size, processes)
    device = make_accelerator(config).device
    planned = planned_run(config, open_source(config, folder).facts(), device, processes)
    there = capacity(device, folder)
    seconds = seconds_of(planned, work_of(planned), timed(planned, device))
    show(Console(), planned, there, seconds)
    check_fits(memory_parts(planned), there)


def show(console: Console, planned: PlannedRun, capacity: Capacity, seconds: Seconds) -> None:
    """The tables of a plan."""
    parts = [part for part in memory_parts(planned) if part.bytes]
    console.print(_memory(parts, capacity))
    console.print(_work(work_of(planned), seconds))
    if planned.processes > 1:
        console.print(_sent(sent_by(planned)))
    for line in (*_warnings(planned, seconds), *_notes(planned, capacity)):
        console.print(f"- {visible(line)}", markup=False, highlight=False, soft_wrap=True)


def _memory(parts: list[Part], capacity: Capacity) -> Table:
    table = Table(title="Memory and disk")
    for name in ("part", "where", "when"):
        table.add_column(name)
    table.add_column("bytes", justify="right")
    on_gpu = capacity.device is not None
    for part in parts:
        where = "host" if part.where == "device" and not on_gpu else part.where
        size = ("" if part.exact else "~ ") + readable(part.bytes)
        table.add_row(part.name, where, part.when, size)
    table.add_section()
    for where, there in capacity.by_place():
        most = peak(parts, where, on_gpu=on_gpu)
        needed = f"{readable(most.bytes)} of {readable(there)}"
        table.add_row("at most at once, of what there is", where, most.when, needed)
    return table


def _work(work: Work, seconds: Seconds) -> Table:
    table = Table(title="One optimizer step")
    table.add_column("what")
    table.add_column("amount", justify="right")
    table.add_row("items encoded with gradient, at most", f"{work.items_grad:,}")
    table.add_row("items encoded without gradient (refresh)", f"{work.items_nograd:,}")
    table.add_row("queries encoded", f"{work.queries:,}")
    for name, flops in (
        ("towers, forward and backward", work.tower_flops),
        ("cached scores of the draw", work.draw_flops),
        ("fresh scores, forward and backward", work.score_flops),
    ):
        table.add_row(f"matrix flops: {name}", readable(flops, "flop", 1000))
    for name, amount in seconds._asdict().items():
        table.add_row(f"seconds, about: {name}", f"{amount:.2g}")
    table.add_row("seconds, about: together", f"{sum(seconds):.2g}")
    if work.fill:
        table.add_row("once, before the first step: items encoded", f"{work.fill:,}")
    return table


def _sent(sent: Sent) -> Table:
    table = Table(title="Sent by a process, one optimizer step")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    for name, amount in sent._asdict().items():
        table.add_row(name, readable(amount))
    table.add_section()
    table.add_row("together", readable(sum(sent)))
    return table


def _warnings(planned: PlannedRun, seconds: Seconds) -> list[str]:
    """What makes a step slow and need not."""
    share = seconds.draw / sum(seconds)
    if share <= MOST or planned.config.sampler.name == "auto":
        return []
    return [
        f"Warning: the draw is {share:.0%} of a step. sampler.scored below 1 or cache.dtype int8 "
        'make it cheaper; sampler.name "uniform" with many negatives, or "auto", which weighs '
        "both, may learn more in the same time."
    ]


def _notes(planned: PlannedRun, capacity: Capacity) -> list[str]:
    facts, word = planned.facts, planned.config.sampler.name
    several = (
        f"All figures are of one of {planned.processes} processes, those of the disk of all; "
        "processes on one machine share its memory."
    )
    counted = "" if word in SAMPLER_COSTS else f'Sampler "{word}" is counted as "cached". '
    streamed = "at most " if planned.config.data.pairs is not None else ""
    chosen = (
        'Sampler "auto" is counted with its cache, which it fills and keeps only where it chooses '
        "cached draws; without, nothing of the cache is held, filled or looked at again."
    )
    return [
        f"Store: {chosen_store(planned, capacity)}.",
        *([chosen] if word == "auto" and planned.config.data.pairs is None else []),
        f"{streamed}{facts.num_items:,} items of {facts.item_tokens:.1f} tokens, "
        f"{facts.num_pairs:,} pairs, a vocabulary of {facts.vocab_size:,}, "
        f"{planned.tower.parameters:,} parameters a tower.",
        *_of_a_larger_batch(planned),
        f"{counted}An item met twice in a step is encoded once, so there are fewer encodings.",
        "~ marks estimates from below: tensors that are certainly held. Python and its libraries "
        "(about half a GiB) and what the allocator keeps come on top.",
        *(
            [f"Tokens ({readable(facts.mapped_bytes)}) are mapped from disk and not counted."]
            if facts.mapped_bytes
            else []
        ),
        *_of_known_positives(planned),
        "Seconds are counted operations at prices that were timed here just now: a rough guide, "
        "off by up to five times where other work is done beside it.",
        '"later" is not counted at once: negcache evaluate and search after training.',
        *([several] if planned.processes > 1 else []),
        *(["There is no GPU here: everything is on the host."] if capacity.device is None else []),
    ]


def _of_a_larger_batch(planned: PlannedRun) -> list[str]:
    found, here = larger_batch(planned), planned.config.batch_size
    if found is None:
        return []
    return [
        f"batch_size = {found.queries} would see {found.gain:.1f} times the queries in the same "
        f"time: by counted costs its step takes {found.dearer:.1f} times as long as one of {here}, "
        "as much of a step is the same for any batch. Try it with a few learning rates."
    ]


def _of_known_positives(planned: PlannedRun) -> list[str]:
    """What a stream's take, which are looked through before the first step."""
    if planned.config.data.pairs is None or not planned.config.data.known_positives:
        return []
    pairs = planned.facts.num_pairs
    sorting = PAIR_BYTES * min(pairs, AT_ONCE)
    return [
        f"Known positives of the pairs (at most {readable(TABLE_BYTES * pairs)} of the cache "
        "folder) are mapped from disk and not counted. Before the first start all pairs are read "
        f"once and sorted, in {readable(sorting)} of memory and at most "
        f"{readable(SORTING_BYTES * pairs)} of that disk; data.known_positives=false leaves it out."
    ]
