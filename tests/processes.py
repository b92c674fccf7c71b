"""Real processes joined by gloo, each a run of the same script.

Torch aborts one in some thirty launches as the interpreter ends ("terminate called without an
active exception"), more of those that do not leave their process group.
"""

import logging
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "negcache",
        "numba",
        "pytest",
        "sentence_transformers",
        "torch.distributed._functional_collectives",
        "torch.distributed.fsdp",
    ]
)
"""Each process is a copy of one that has imported these: seconds less for each."""


@contextmanager
def met(folder, rank, world):
    """In a launched script: one thread, and the default group, if there are several processes."""
    torch.set_num_threads(1)
    if world == 1:
        yield
        return
    place = Path(f"{folder}/meet{world}")
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
    yield
    dist.destroy_process_group()
    place.unlink(missing_ok=True)  # the next launch of as many meets anew


def run(script, folder, world, *arguments):
    """``python script FOLDER RANK WORLD ...`` in every process."""
    words = [[str(script), str(folder), str(rank), str(world), *arguments] for rank in range(world)]
    alive = [_FORKS.Process(target=_play, args=(each, dict(os.environ))) for each in words]
    for process in alive:
        process.start()
    try:
        for process in alive:
            process.join(300)
        assert [process.exitcode for process in alive] == [0] * world
    finally:  # a process whose fellow has failed may wait for ever
        for process in alive:
            process.kill()


def _play(words, environment):
    """In a new process: the script as if it had been started with these words.

    Nothing of it is taken down: what holds a process group that has been left may wait for ever.
    """
    os.environ |= environment
    sys.argv = words
    made = runpy.run_path(words[0], run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if made else 1)


def torchrun(count, *words, makes=None, cwd=None, **variables):
    """``torchrun`` of so many processes, or plain Python of one, as it completed.

    Args:
        makes: a folder that must not be there yet: what aborts is launched once more without it.
    """
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [sys.executable, *(start if count > 1 else []), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables
    options = {"capture_output": True, "text": True, "timeout": 300, "cwd": cwd}
    done = subprocess.run(command, env=environment, **options)
    if re.search(r"exitcode *: -6", done.stderr):
        logging.getLogger(__name__).warning("aborted, launched once more: %s", done.stderr)
        if makes is not None:
            shutil.rmtree(makes, ignore_errors=True)
        done = subprocess.run(command, env=environment, **options)
    return done
