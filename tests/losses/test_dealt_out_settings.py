"""A table of classes dealt out: its state, the norm of its gradients, and what is refused."""

import dealt_out_settings as settings
import processes
import pytest
import torch


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Of one process; and of each of two, which have seen refused what cannot be."""
    folder = tmp_path_factory.mktemp("dealt-out")
    for world, phase in ((2, "begin"), (1, "go_on"), (2, "end")):
        processes.run(settings.__file__, folder, world, phase)
    read = {}
    for path in folder.glob("*-of-*.pt"):
        phase, rank, _, world = path.stem.rsplit("-", 3)
        if phase not in ("first", "second"):
            read.setdefault((phase, int(world)), []).append((rank, torch.load(path)))
    return {key: [each for _, each in sorted(parts)] for key, parts in read.items()}


def check(several, one):
    """Rows and sums one after the other, towers alike."""
    for what in ("rows", "sums"):
        close(torch.cat([each[what] for each in several]), one[what])
    for each in several:
        for mine, its in zip(each["tower"], one["tower"], strict=True):
            close(mine, its)


def test_two_processes_then_one_then_two_are_one_that_never_stopped(found):
    """States of both add up; that of a table that is not dealt out is taken by share."""
    straight = found["go_on", 1][0]["straight"]
    check([each["ended"] for each in found["end", 2]], straight)


def test_gradients_are_clipped_by_the_norm_that_one_process_has(found):
    (one,) = found["go_on", 1]
    for norm, its in zip(one["clipped"]["norms"], one["clipped_by_torch"]["norms"], strict=True):
        assert norm > 0.1
        torch.testing.assert_close(norm, its)
    for each in found["begin", 2]:
        for mine, its in zip(each["clipped"]["norms"], one["clipped"]["norms"], strict=True):
            close(mine, its)
    check([each["clipped"] for each in found["begin", 2]], one["clipped"])


def test_a_head_over_features_that_do_not_train_needs_no_wrapper(found):
    rows = torch.cat([each["frozen"]["rows"] for each in found["begin", 2]])
    close(rows, found["go_on", 1][0]["frozen"]["rows"])
    assert rows.any()


def test_what_a_step_sends(found):
    for each in found["begin", 2]:
        assert each["sent"]["measured"] == pytest.approx(each["sent"]["formula"], rel=0.01)
