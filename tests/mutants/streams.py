"""Faults of streams: of their order, of what is held, skipped, converted and remembered."""

from tests.mutants.mutant import Mutant

ORDER = "tests/run/data/streams/test_order.py::"
READING = "tests/run/data/streams/test_reading.py::"
BAD = "tests/run/data/streams/test_bad_shards.py::"
JSON = "tests/run/data/streams/test_json_shards.py::"
IDS = "tests/run/data/streams/test_ids.py::"
WORKERS = "tests/run/data/streams/test_prepared.py::"
KNOWN = "tests/run/data/streams/test_known.py::"
POSITIVES = "tests/run/cli/test_stream_positives.py::"

MUTANTS = [
    Mutant(
        "the rows of a stream come as they did in the last epoch",
        "run/data/streams/order.py",
        "_generator(self.seed, epoch).permutation",
        "_generator(self.seed).permutation",
        f"{ORDER}test_epochs_and_seeds_shuffle_anew",
    ),
    Mutant(
        "rows of a window stay in their order",
        "run/data/streams/order.py",
        "noise.permutation(total)",
        "np.arange(total)",
        f"{ORDER}test_rows_of_a_window_are_mixed_and_row_groups_too",
    ),
    Mutant(
        "a window's shuffle is that of the one before",
        "run/data/streams/order.py",
        "self._shuffled[0] != window",
        "self._shuffled[0] is None",
        f"{ORDER}test_a_batch_is_the_same_from_anywhere",
    ),
    Mutant(
        "every process reads the whole batch of a stream",
        "run/data/streams/stream.py",
        "self.order.batch(number, self._part)",
        "self.order.batch(number)",
        f"{READING}test_processes_share_the_batches_of_one",
    ),
    Mutant(
        "the last window is held while the next is read",
        "run/data/streams/windows.py",
        "self._let_go()  # before another takes its place",
        "pass",
        f"{READING}test_an_epoch_reads_each_row_group_once_and_holds_one_window",
    ),
    Mutant(
        "what was read ahead is taken for what is wanted",
        "run/data/streams/windows.py",
        "self._next is None or self._next[0] != window",
        "self._next is None",
        f"{READING}test_reading_ahead_holds_two_windows_and_changes_nothing",
    ),
    Mutant(
        "a stream reads columns that nobody asked for",
        "run/data/streams/sharded_table.py",
        "columns=self.schema.names, use_threads",
        "use_threads",
        f"{READING}test_of_the_files_only_footers_and_the_window_are_read",
    ),
    Mutant(
        "a file that was rewritten is read as it is",
        "run/data/streams/sharded_table.py",
        "len(found) != self.rows[group] or ",
        "",
        f"{BAD}test_a_file_that_breaks_in_the_middle_of_an_epoch",
    ),
    Mutant(
        "files of a stream may differ",
        "run/data/streams/sharded_table.py",
        "            if got != expected:",
        "            if False:",
        f"{BAD}test_files_that_differ",
    ),
    Mutant(
        "rows after broken ones stand where they do not",
        "run/data/streams/stream.py",
        "places.append(np.stack([piece.groups[there], piece.rows[there]], axis=1))",
        "places.append(np.stack([piece.groups, piece.rows], axis=1))",
        f"{BAD}test_a_broken_row_group_is_skipped_when_told_to_and_the_order_stays",
    ),
    Mutant(
        "a changed file of JSON lines is not converted again",
        "run/data/streams/files.py",
        "self.system.size(self.path) or 0), changed",
        'self.system.size(self.path) or 0), ""',
        f"{JSON}test_a_file_is_converted_once_and_again_when_it_changed",
    ),
    Mutant(
        "two texts of an id in one batch are not seen",
        "run/data/streams/texts_by_id.py",
        "(rows[first[same]], self._seen[slots])",
        "(self._seen[slots],)",
        f"{IDS}test_two_texts_in_a_batch",
    ),
    Mutant(
        "worker processes act on Ctrl-C",
        "run/data/streams/prepared.py",
        "signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL",
        "signal.SIG_DFL",
        f"{WORKERS}test_no_worker_outlives_its_run[gently]",
    ),
    Mutant(
        "making batches moves the noise of the run on",
        "run/data/streams/prepared.py",
        "            generator=torch.Generator(),  # else it would move the noise of the run on\n",
        "",
        f"{WORKERS}test_workers_change_nothing",
    ),
    Mutant(
        "of a stream's known positives the targets alone are masked",
        "known_positives.py",
        "has = has[self.queries[place[has]] == wanted[has]]",
        "has = has[:0]",
        f"{POSITIVES}test_no_known_positive_is_drawn_for_its_query[cached-pairs]",
    ),
    Mutant(
        "queries are masked by the items of the query before",
        "known_positives.py",
        "take_rows(self.offsets, self.items, place[has])",
        "take_rows(self.offsets, self.items, np.maximum(place[has] - 1, 0))",
        f"{POSITIVES}test_no_known_positive_is_drawn_for_its_query[in_batch-numbered]",
    ),
    Mutant(
        "a pair that comes twice in a stream is kept twice",
        "known_positives.py",
        "return queries[new], items[new]",
        "return queries, items",
        f"{KNOWN}test_a_table_is_the_pairs_of_the_stream[by_number]",
    ),
    Mutant(
        "rows that are left out keep their queries' ids",
        "run/data/streams/batch.py",
        "else self.query_ids[kept]",
        "else self.query_ids",
        f"{KNOWN}test_ids_are_those_of_the_columns_or_hashes_of_texts",
    ),
    Mutant(
        "sorted pairs of a stream are appended once more after an interruption",
        "run/data/streams/known.py",
        'range(told["ranges"], ',
        "range(0, ",
        f"{KNOWN}test_what_is_interrupted_goes_on_and_ends_in_the_same_bytes[say_written]",
    ),
    Mutant(
        "what is sorted of a stream is sorted once more after an interruption",
        "run/data/streams/known.py",
        "if not home.exists():",
        "if True:",
        f"{KNOWN}test_what_is_interrupted_goes_on_and_ends_in_the_same_bytes[_sort_run]",
    ),
    Mutant(
        "all pairs of a stream are sorted at once",
        "run/data/streams/known.py",
        "if pairs and pairs + size > AT_ONCE:",
        "if False:",
        f"{KNOWN}test_of_many_pairs_some_at_a_time_are_in_memory",
    ),
    Mutant(
        "pairs of a stream are merged all at once",
        "run/data/streams/known.py",
        "edges = np.unique(told[each::each])",
        "edges = told[:0]",
        f"{KNOWN}test_of_many_pairs_some_at_a_time_are_in_memory",
    ),
    Mutant(
        "to sort the pairs of a stream whole rows are read",
        "run/data/streams/stream.py",
        "replace(self.table, schema=self.pair_columns).read(group)",
        "self.table.read(group)",
        f"{KNOWN}test_each_row_group_is_read_once_and_of_it_ids_alone",
    ),
    Mutant(
        "an evaluation encodes all items at once",
        "run/evaluation/encode.py",
        "for first in progress(range(0, len(wanted), chunk)):",
        "chunk = len(wanted)\n    for first in progress(range(0, len(wanted), chunk)):",
        "tests/run/evaluation/test_chunks.py",
    ),
    Mutant(
        "items that were seen follow the others in any order",
        "run/evaluation/search.py",
        "self.seen = better_of(self.seen, known, first, self.k)",
        "self.seen = better_of(self.seen, -known.abs(), first, self.k)",
        "tests/run/evaluation/test_unseen.py::test_against_a_full_sort",
    ),
    Mutant(
        "labels are gathered before they are searched",
        "run/evaluation/labels.py",
        "found = top_k_arriving(points, labels, score, max(AT))[1]",
        "labels = list(labels)\n"
        "    rows = torch.cat([rows for _, rows in labels])\n"
        "    found = top_k_arriving(points, [(labels[0][0], rows)], score, max(AT))[1]",
        "tests/run/evaluation/test_chunks.py::test_labels_are_searched_as_they_come",
    ),
    Mutant(
        "a search reads a whole file of its index at once",
        "run/cli/item_index.py",
        "yield part.start + first, rows[first : first + CHUNK].to(device)",
        "yield (part.start, rows[:].to(device)) if first == 0 else (part.stop, rows[:0])",
        "tests/run/cli/test_search_chunks.py",
    ),
    Mutant(
        "an index of another checkpoint is read",
        "run/cli/item_index.py",
        "file.metadata() == self.of and shape",
        "shape",
        "tests/run/cli/test_search_chunks.py",
    ),
]
