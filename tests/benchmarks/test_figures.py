"""The figures of README and docs are those of `benchmarks/results/`; each kind of fault is seen."""

import pytest

from benchmarks.figures import fault, is_printed_as, pages, passages, unmatched, values

TITLE = "# A page\n\nMade by `python -m benchmarks.streaming`.\n\n"
QUERY = "<!-- figures: select in_memory_mrr10, none_mrr10 from streaming_answer -->\n"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_figure_is_that_of_a_result_file(page):
    faults = [f"{p.file}:{p.line}: {wrong}" for p in passages(page) if (wrong := fault(p))]
    assert not faults, "\n".join(faults)


def faults_of(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    return [wrong for passage in passages(page) if (wrong := fault(passage))]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (TITLE + "MRR@10 .796 in memory, .795 in a stream.\n" + QUERY, None),
        (TITLE + "MRR@10 .796 in memory, .796 in a stream.\n" + QUERY, "0.7949"),
        (TITLE + "MRR@10 .795 in a stream, .796 in memory.\n" + QUERY, "0.796"),
        (TITLE + "MRR@10 .796 and .795, a loss of 1 %.\n" + QUERY, "nothing more"),
        (TITLE + "MRR@10 .796.\n", "without a comment"),
        (TITLE + "It takes 12 ms.\n", "without a comment"),
        (TITLE + "| a | b |\n|---|---|\n| .796 | .7 |\n\n" + QUERY, "0.7949"),
        ("# A page\n\nMRR@10 .796, .795.\n" + QUERY, "no command that makes streaming_answer"),
        (TITLE + "It takes .5 s.\n<!-- not committed -->\n", "does not say so"),
        (TITLE + "It takes .5 s, not committed.\n<!-- not committed -->\n", None),
        ("# A page\n\nIt takes .5 s, not committed.\n<!-- not committed -->\n", "no command"),
        (TITLE + "Take a temperature of .05. <!-- no measurement -->\n", None),
    ],
)
def test_a_passage_is_read_as_a_reader_reads_it(tmp_path, text, seen):
    faults = faults_of(tmp_path, text)
    assert (not faults) if seen is None else (len(faults) == 1 and seen in faults[0])


def test_the_command_of_another_section_does_not_count(tmp_path):
    page = TITLE + "## Another\n\nMRR@10 .796 in memory, .795 in a stream.\n" + QUERY
    assert "no command" in faults_of(tmp_path, page)[0]


def test_a_value_is_rounded_as_it_is_printed():
    assert is_printed_as(0.80518, ".805")
    assert is_printed_as(1234.4, "1,234")
    assert is_printed_as(0.0449 * 100, "4 %")
    assert not is_printed_as(0.8056, ".805")
    assert not is_printed_as(0.8051, ".80")


def test_settings_without_a_decimal_point_need_no_value():
    assert unmatched(["128", ".5", "3"], [0.5]) is None
    assert unmatched(["128", ".5", "3"], [0.5, 3]) is None
    assert unmatched(["128", ".5"], [0.5, 128]) is not None


def test_a_query_that_fails_is_shown():
    with pytest.raises(ValueError, match="no such column: unheard_of"):
        values("select unheard_of from streaming")


def test_what_sqlite_lacks_is_there():
    three = "(select 1 as m union select 2 union select 6)"
    found = values(
        f"select place('b', 'a', 'b'), place('c', 'a'), median(m), stdev(m) from {three}"
    )
    assert found == [1, 2, 7**0.5]
