"""Does a stream whose cache is in files end as if nobody had killed it?

``python -m benchmarks.soak_streaming`` trains over streams by two processes, a file of rows each
(``cache.on_disk``), and kills one of them or both with SIGKILL, 20 times in one run: as a step has
been logged, while a checkpoint is written, or at any moment after they were started. torchrun
starts both anew, which go on from the newest checkpoint. Parameters, optimizer, what the cache
knows, metrics, and the files of rows are compared byte by byte with a run that nobody killed. The
figures are in ``benchmarks/results/soak_streaming.json``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen

import pyarrow as pa
from pyarrow import parquet

from benchmarks.record import append_rows, conclude, hardware
from benchmarks.soak import hash_of_bytes, result, signal_worker, torchrun, worker, write_task
from negcache.run.cli.runs import ROWS

Figures = dict[str, object]

RANKS, ITEMS = 2, 480
CONFIG = """\
steps = {steps}
batch_size = 16
seed = 3
device = "cpu"
threads = 1
log_every = 1
checkpoint_every = 7
keep_checkpoints = 3
tower = {{ dim = 16, width = 32, shared = false }}
sampler = {{ name = "cached", num_negatives = 2 }}
optimizer = {{ lr = 0.01 }}

[data]
pairs = "{folder}/pairs"
items = "{folder}/items"
items_per_step = 8
vocab_size = 400

[cache]
kind = "streaming"
size = 300
on_disk = true
dtype = "{dtype}"
row_weight = "dedup"
refresh_rows = 6
"""


def write_streams(folder: Path) -> None:
    """The pairs and items of a small task, as Parquet files of several row groups."""
    task = write_task(folder / "task", ITEMS)
    corpus, queries = (
        {row["_id"]: row["text"] for row in map(json.loads, (task / name).read_text().splitlines())}
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    pairs = {"query": queries.values(), "item": corpus, "text": corpus.values()}
    items = {"_id": corpus, "text": corpus.values()}
    for name, columns in (("pairs", pairs), ("items", items)):
        (folder / name).mkdir()
        table = pa.table({key: list(values) for key, values in columns.items()})
        for shard, (start, end) in enumerate(pairwise(range(0, ITEMS + 1, ITEMS // 4))):
            path = folder / name / f"part-{shard}.parquet"
            parquet.write_table(table.slice(start, end - start), path, row_group_size=40)


def prepare(folder: Path, steps: int, dtype: str) -> Path:
    """Write the streams and their config, and keep what is prepared from them in the folder too."""
    os.environ["NEGCACHE_CACHE"] = str(folder / "cache")
    write_streams(folder)
    config = folder / "stream.toml"
    config.write_text(CONFIG.format(steps=steps, folder=folder, dtype=dtype))
    return config


def started(config: Path, run: Path, restarts: int = 0) -> "Popen[str]":
    """Two processes that train; what they say goes to a file beside the run."""
    words = "train", config, "--out", run
    with run.with_suffix(".log").open("w") as log:
        told = {"stdout": log, "stderr": STDOUT, "stdin": DEVNULL}
        return torchrun(RANKS, *words, restarts=restarts, **told)


def everything(run: Path) -> dict[str, str]:
    """Hashes of what a run has come to, its files of rows among them."""
    files = [each for each in (run / ROWS).parent.iterdir() if ".undo-" not in each.name]
    assert len(files) == RANKS
    return result(run) | {each.name: hash_of_bytes(each.read_bytes()) for each in files}


class Killer:
    """Kills processes of a run at moments of three kinds.

    Args:
        launcher: of the processes.
        run: their folder.
        rng: chooses whom, and when.
    """

    def __init__(self, launcher: "Popen[str]", run: Path, rng: random.Random) -> None:
        self.launcher, self.run, self.rng = launcher, run, rng
        self.inside, self.killed = 0, set[int]()

    def kill(self, turn: int) -> bool:
        """Once more, as soon as all are alive; False: the run has ended."""
        if not self._until(lambda: len(self._alive() - self.killed) == RANKS):
            return False
        begun, saved = time.monotonic(), self._newest("step-*")
        match turn % 4:
            case 0:  # as they start, go back to a checkpoint, or train on
                after = begun + self.rng.uniform(0, 12)
                landed = self._until(lambda: time.monotonic() > after)
            case 1:
                beyond = saved + self.rng.randrange(14)
                landed = self._until(lambda: self._newest(".step-*") > beyond, pause=0.0005)
            case _:
                step = max(saved, self._logged()) + self.rng.randrange(1, 20)
                landed = self._until(lambda: self._logged() >= step)
        if not landed:
            return False
        alive = self._alive()
        for rank in self.rng.choice([(0,), (1,), (0, 1)]):
            signal_worker(self.launcher, rank, signal.SIGKILL)
        self.killed |= alive
        self.inside += self._newest(".step-*") > 0
        return True

    def _until(self, holds: Callable[[], bool], pause: float = 0.005) -> bool:
        """Wait for it; False if the run ends before."""
        while self.launcher.poll() is None:
            if holds():
                return True
            time.sleep(pause)
        return False

    def _alive(self) -> set[int]:
        found = (worker(self.launcher, rank) for rank in range(RANKS))
        return {each for each in found if each is not None}

    def _newest(self, pattern: str) -> int:
        """Step of the newest checkpoint, finished or not; 0: there is none."""
        names = (each.name.lstrip(".") for each in (self.run / "checkpoints").glob(pattern))
        return max((int(name.split(".")[0].removeprefix("step-")) for name in names), default=0)

    def _logged(self) -> int:
        """The last step that was logged."""
        path = self.run / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return next((json.loads(a)["step"] for a in reversed(lines) if a.endswith(b"\n")), 0)


def main(kills: int = 20, seed: int = 0, steps: int = 1000, dtype: str = "float32") -> Figures:
    """Kill and compare; the figures."""
    start, rng = time.perf_counter(), random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="negcache-soak-"))
    config, whole, killed = prepare(folder, steps, dtype), folder / "whole", folder / "killed"
    if started(config, whole).wait(600):
        raise RuntimeError(whole.with_suffix(".log").read_text())
    launcher = started(config, killed, restarts=kills)
    killer, done = Killer(launcher, killed, rng), 0
    while done < kills and killer.kill(done):
        done += 1
        print(f"kill {done}, at step {killer._logged()}", flush=True)
    if launcher.wait(600):
        raise RuntimeError(killed.with_suffix(".log").read_text())
    equal = everything(killed) == everything(whole)
    shutil.rmtree(folder)
    seconds = round(time.perf_counter() - start)
    figures: Figures = {"processes": RANKS, "dtype": dtype, "steps": steps, "kills": done}
    return figures | {"inside_checkpoint_write": killer.inside, "equal": equal, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    told = parser.parse_args()
    found = main(told.kills, told.seed, told.steps, told.dtype)
    append_rows("soak_streaming", [found | hardware()])
    conclude("soak_streaming", found)
