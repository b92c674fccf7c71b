"""Two processes train a SentenceTransformer over a shared corpus as one does, also resumed."""

import shutil
import socket

import processes
import pytest
import st_processes
import torch

pytestmark = pytest.mark.slow  # as in test_ddp, which is fast, but with a whole trainer


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of one process, of two, and of two that were stopped and started anew."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    again = two.with_name("again")
    with pytest.MonkeyPatch.context() as patch:
        for folder, world, words in (
            (one, 1, ["4"]),
            (two, 2, ["4"]),
            (again, 2, ["4", "resume"]),
        ):
            if folder is again:
                shutil.copytree(two, again)
                shutil.rmtree(again / "run" / "checkpoint-4")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                patch.setenv("TEST_PORT", str(free.getsockname()[1]))
            processes.run(st_processes.__file__, folder, world, *words)
    parts = {"one": [one / "0-of-1.pt"]}
    for name, folder in (("two", two), ("again", again)):
        parts[name] = [folder / f"{rank}-of-2.pt" for rank in range(2)]
    return {name: [torch.load(path) for path in paths] for name, paths in parts.items()}


def test_two_processes_are_one(found):
    ((weights, (ids, rows)),) = found["one"]
    for mine, _ in found["two"]:
        for name, value in weights.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6)
    shards = [rows for _, rows in found["two"]]
    theirs = torch.cat([ids for ids, _ in shards])
    assert torch.equal(theirs.sort().values, ids)
    torch.testing.assert_close(torch.cat([r for _, r in shards])[theirs.argsort()], rows)


def test_a_resumed_run_is_the_straight_one(found):
    for (straight, rows), (resumed, others) in zip(found["two"], found["again"], strict=True):
        assert all(torch.equal(straight[name], resumed[name]) for name in straight)
        assert torch.equal(rows[1], others[1])
