"""Does a run that is killed again and again end exactly as one that never was?

``python -m benchmarks.soak`` kills processes with SIGKILL, 200 times, whatever they do
(``benchmarks.soak_commands``). The last line, also in ``benchmarks/results/soak_commands.json``, is
``{"kills": 200, "unequal": 0, "left_behind": 0, ..., "duplicated_steps": 0}``.

With ``--processes 2`` one of two processes that ``torchrun`` started is killed, every third time
while it writes a checkpoint, and torchrun starts both anew, which go on from the newest checkpoint.
Then one is stopped (SIGSTOP): the other must end with an error that names it. The figures are in
``soak_processes.json``. ``benchmarks.soak_streaming`` is of a stream whose cache is in files.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen

import torch
from safetensors.torch import load_file

from benchmarks.record import append_rows, conclude, hardware

STEPS = 240
CONFIG = """\
steps = {steps}
batch_size = 16
seed = 3
device = "cpu"
threads = 1
log_every = 5
eval_every = 20
checkpoint_every = 8
keep_checkpoints = 3
save_best = "mrr10"
early_stopping_patience = 12
data = {{ source = "{source}", vocab_size = 400 }}
tower = {{ dim = 16, width = 64, shared = false }}
score = {{ learn_temperature = true }}
sampler = {{ name = "cached", num_negatives = 2 }}
cache = {{ refresh_rows = 5 }}
optimizer = {{ lr = 0.01, clip_norm = 0.5 }}
schedule = {{ name = "cosine", warmup_steps = 40 }}
"""


def write_task(folder: Path, num_items: int = 240) -> Path:
    """A small BEIR folder whose items share words, so that they are easily confused."""
    words, rng = [f"word{i}" for i in range(60)], random.Random(0)
    items = [" ".join(rng.choices(words, k=6)) for _ in range(num_items)]
    (folder / "qrels").mkdir(parents=True)
    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as asked,
    ):
        for i, text in enumerate(items):
            corpus.write(json.dumps({"_id": f"d{i}", "title": "", "text": text}) + "\n")
            query = " ".join(rng.sample(text.split(), k=4))
            asked.write(json.dumps({"_id": f"q{i}", "text": query}) + "\n")
    for split, rest in (("train", range(8)), ("dev", (8,)), ("test", (9,))):
        lines = [f"q{i}\td{i}\t{1 + i % 2}" for i in range(num_items) if i % 10 in rest]
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines])
        (folder / "qrels" / f"{split}.tsv").write_text(text + "\n")
    return folder


def negcache(*words: object, **popen: object) -> "Popen[str]":
    """Start the command line in a process of its own."""
    command = [sys.executable, "-m", "negcache", *map(str, words)]
    return Popen(command, stdout=PIPE, stderr=PIPE, text=True, **popen)  # type: ignore[call-overload]


def finish(process: "Popen[str]") -> CompletedProcess[str]:
    """Wait for the end of a process."""
    out, err = process.communicate(timeout=300)
    return CompletedProcess(process.args, process.returncode, out, err)


def result(run: Path) -> dict[str, str]:
    """Hashes of the final and best parameters (with optimizer, cache, generators), and metrics."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    metrics = hash_of_bytes((run / "metrics.jsonl").read_bytes())
    hashes = {"tensors": hash_of_tensors(last), "metrics": metrics}
    best = json.loads((last / "manifest.json").read_text())["best"]
    if best is not None:
        hashes["best"] = hash_of_tensors(last.with_name(f"step-{best:09d}"))
    return {"step": last.name, **hashes}


def hash_of_tensors(checkpoint: Path) -> str:
    """Of every tensor, name and bytes; a file of them names them in any order."""
    tensors = {}
    for path in checkpoint.glob("*.safetensors"):
        tensors |= load_file(path)
    named = sorted(tensors.items())
    parts = ((name, one.flatten().view(torch.uint8).numpy().tobytes()) for name, one in named)
    each = (f"{name} {hash_of_bytes(content)}" for name, content in parts)
    return hash_of_bytes("\n".join(each).encode())


def hash_of_bytes(content: bytes) -> str:
    """Its sha256."""
    return hashlib.sha256(content).hexdigest()


def torchrun(processes: int, *words: object, restarts: int = 3, **popen: object) -> "Popen[str]":
    """Start the command line as several processes that are started anew when one dies."""
    start = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts)]
    each = ["--nproc-per-node", str(processes), "-m", "negcache"]
    told = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, *start, *each, *map(str, words)]
    options = {"stdout": PIPE, "stderr": PIPE} | popen
    return Popen(command, text=True, env=told, **options)  # type: ignore[call-overload]


def worker(launcher: "Popen[str]", rank: int) -> int | None:
    """The process with this rank that a launcher has started; None: there is none now."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and f"\0RANK={rank}\0" in (path / "environ").read_text():
                return int(path.name)
        except (OSError, ValueError):  # it has ended
            continue
    return None


def signal_worker(launcher: "Popen[str]", rank: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to one of the processes of a launcher."""
    found = worker(launcher, rank)
    if found is not None:
        os.kill(found, number)


Kill = Callable[[], None]


def kill_at_line(process: "Popen[str]", run: Path, lines: int, kill: Kill) -> bool:
    """Kill once so many lines of metrics are written; False if the run ended before."""
    path = run / "metrics.jsonl"
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            kill()
            return True
        time.sleep(0.001)
    return False


def kill_inside_checkpoint(process: "Popen[str]", run: Path, after: int, kill: Kill) -> bool:
    """Kill while a checkpoint beyond step ``after`` is half written; False if none was hit."""
    while process.poll() is None:
        for part in (run / "checkpoints").glob(".step-*"):
            if int(part.name.split(".")[1].removeprefix("step-")) > after:
                kill()
                return part.exists()
    return False


def killed_run(config: Path, run: Path, rng: random.Random, inside: bool, processes: int) -> bool:
    """Train, kill once at a random moment, go on to the end; whether a kill did land."""
    words = "train", config, "--out", run
    process = torchrun(processes, *words)
    kill = partial(signal_worker, process, rng.randrange(processes))
    if inside:
        landed = kill_inside_checkpoint(process, run, rng.randrange(STEPS * 3 // 4), kill)
    else:
        landed = kill_at_line(process, run, rng.randrange(1, STEPS // 5), kill)
    done = finish(process)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return landed


def stopped_run(config: Path, run: Path) -> bool:
    """Whether the error names the process that was stopped, within its time."""
    process = torchrun(2, "train", config, "--out", run, "--set", "timeout_seconds=5")
    stop = partial(signal_worker, process, 1, signal.SIGSTOP)
    kill_at_line(process, run, 3, stop)
    while process.poll() is None and worker(process, 0) is not None:
        time.sleep(0.1)
    process.terminate()
    told = finish(process).stderr
    return "every process to answer within 5 seconds" in told and "Rank 1" in told


def prepare(folder: Path) -> Path:
    """Write the small task and its config, and keep what is prepared from it in the folder too."""
    os.environ["NEGCACHE_CACHE"] = str(folder / "cache")
    config = folder / "small.toml"
    config.write_text(CONFIG.format(steps=STEPS, source=write_task(folder / "task")))
    return config


def main(kills: int = 20, seed: int = 0, processes: int = 2) -> dict[str, object]:
    """Kill and compare; the figures."""
    start, rng = time.perf_counter(), random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="negcache-soak-"))
    config = prepare(folder)
    straight = torchrun(processes, "train", config, "--out", folder / "whole")
    assert finish(straight).returncode == 0
    whole = result(folder / "whole")
    done = equal = inside = 0
    while done < kills:
        run = folder / f"run-{done}"
        during_write = done % 3 == 0
        if killed_run(config, run, rng, during_write, processes):
            done, inside = done + 1, inside + during_write
            equal += result(run) == whole
            print(f"kill {done}: {equal} equal", flush=True)
        shutil.rmtree(run)
    named = {"stopped_is_named": stopped_run(config, folder / "stopped")}
    shutil.rmtree(folder)
    seconds = round(time.perf_counter() - start)
    figures: dict[str, object] = {"kills": done, "equal": equal, "inside_checkpoint_write": inside}
    return figures | named | {"seconds": seconds}


def keep(figures: dict[str, object], name: str) -> None:
    """Add the figures to the record and print them as the last line."""
    append_rows(name, [figures | hardware()])
    conclude(name, figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; a soak that was stopped goes on there")
    told = parser.parse_args()
    if told.processes > 1:
        keep(main(told.kills or 20, told.seed, told.processes), "soak_processes")
    else:
        from benchmarks.soak_commands import soak

        keep(soak(told.kills or 200, told.seed, told.folder), "soak_commands")
