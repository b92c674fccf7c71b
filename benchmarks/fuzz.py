"""Does anything odd get through the readers? Spoilt inputs, against a strict reference reader.

``python -m benchmarks.fuzz --seconds 600 --seed 0`` spoils files, configs and ``--set`` values, one
after the other in a worker process, and asks of each: was it refused (`InputError`), or accepted
and read as the reference of `benchmarks.fuzzing` reads it? Everything else is a fault: another
exception (``tracebacks``), a value that the reference refuses or reads otherwise (``silent``), ten
seconds without an answer (``hangs``), a worker that died (``crashes``). Faults are printed with
their number; ``--only NUMBER`` tries one again. A later call goes on after the inputs of the
earlier ones of that seed. A row of ``results/fuzz.csv`` is one reader in one call; the last line,
in ``results/fuzz.json`` too, is the sum over all calls of the seed.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fuzzing.reference import RefusalError
from benchmarks.fuzzing.targets import WEIGHTS, Target, shown, targets
from benchmarks.record import append_rows, conclude, hardware, read_rows
from negcache.errors import InputError

PATIENCE = 10.0  # seconds
FAULTS = ("tracebacks", "silent", "hangs", "crashes")
COUNTS = ("inputs", "refused", "accepted", *FAULTS)


class Hang(BaseException):
    """An input that takes too long."""


class Outcome(NamedTuple):
    """What became of an input: ``refused``, ``accepted`` or a fault, and what to say of it."""

    number: int
    target: str
    what: str
    told: str = ""


class Fuzzer:
    """Tries inputs, each a function of seed and number.

    Args:
        home: an empty folder.
        seed: of all inputs.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.seed = home, seed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.targets = targets(home)

    def try_out(self, number: int) -> Outcome:
        """Make an input, and read it."""
        rng = random.Random(f"{self.seed} {number}")
        name = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        target, folder = self.targets[name], self.home / "input"
        folder.mkdir()
        try:
            what = target.make(folder, rng)
            return Outcome(number, name, *judge(target, what))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def judge(target: Target, what: Any) -> tuple[str, str]:
    """``refused``, ``accepted`` or a fault, and what to say of it."""
    begun = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours = target.ours(what)
    except InputError:
        return "refused", ""
    except Hang:
        return "hangs", shown(what)
    except BaseException:
        if isinstance(sys.exception(), KeyboardInterrupt):
            raise
        return "tracebacks", traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, begun)
    return compare(target, what, ours)


def compare(target: Target, what: Any, ours: Any) -> tuple[str, str]:
    """Whether the reference reads the same."""
    try:
        theirs = None if target.theirs is None else target.theirs(what)
    except RefusalError as why:
        return "silent", f"the reference refuses ({why}); ours: {str(ours)[:600]}"
    except Exception:
        return "silent", f"the reference fails: {traceback.format_exc(limit=-3)}"
    if target.theirs is None or target.same(ours, theirs):
        return "accepted", ""
    return "silent", f"ours: {str(ours)[:600]}\nthe reference: {str(theirs)[:600]}"


def _ring(*_: object) -> None:
    raise Hang


def _work(seed: int, first: int, until: float, wire: Connection) -> None:
    """Of the worker: tries inputs until the time is over; says which before, and what after."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["NEGCACHE_CACHE"] = f"{home}/cache"
        fuzzer, number = Fuzzer(Path(home), seed), first
        while time.time() < until:
            wire.send(number)
            wire.send(fuzzer.try_out(number))
            shutil.rmtree(f"{home}/cache", ignore_errors=True)
            number += 1
        wire.send(None)


def outcomes(seed: int, first: int, seconds: float) -> Iterator[Outcome]:
    """What becomes of the inputs from a number on; a worker that dies is followed by another."""
    until, context = time.time() + seconds, multiprocessing.get_context("spawn")
    while time.time() < until:
        here, there = context.Pipe()
        worker = context.Process(target=_work, args=(seed, first, until, there))
        worker.start()
        there.close()
        try:
            while (message := _receive(here, worker)) is not None:
                if isinstance(message, int):
                    first = message
                    continue
                yield message
                first = message.number + 1
            return
        except EOFError:
            worker.join()
            what = "hangs" if worker.exitcode == -signal.SIGKILL else "crashes"
            yield Outcome(first, "unknown", what, f"exit code {worker.exitcode}")
            first += 1


def _receive(wire: Connection, worker: Any) -> Any:
    if not wire.poll(60 + 6 * PATIENCE):
        worker.kill()
    return wire.recv()


def main() -> None:
    """Fuzz, keep the counts, and fail where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    wanted = parser.parse_args()
    if wanted.only is not None:
        with tempfile.TemporaryDirectory() as home:
            os.environ["NEGCACHE_CACHE"] = f"{home}/cache"
            print(*Fuzzer(Path(home), wanted.seed).try_out(wanted.only), sep="\n")
        return
    earlier = [row for row in read_rows("fuzz") if int(row["seed"]) == wanted.seed]
    first, begun = sum(int(row["inputs"]) for row in earlier), time.time()
    counted: dict[str, Counter[str]] = {}
    for one in outcomes(wanted.seed, first, wanted.seconds):
        counted.setdefault(one.target, Counter()).update(["inputs", one.what])
        if one.what in FAULTS:
            print(f"{one.number} {one.target} {one.what}: {one.told}", file=sys.stderr, flush=True)
    rows = [
        {**hardware(), "seed": wanted.seed, "first": first, "target": name}
        | {count: found[count] for count in COUNTS}
        | {"seconds": round(time.time() - begun, 1)}
        for name, found in sorted(counted.items())
    ]
    append_rows("fuzz", rows)
    everything = [*earlier, *rows]
    conclude("fuzz", {name: sum(int(row[name]) for row in everything) for name in COUNTS})
    sys.exit(any(row[fault] for row in rows for fault in FAULTS))


if __name__ == "__main__":
    main()
