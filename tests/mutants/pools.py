"""Faults of shared pools: sums in one pass, what is expected, and what is chosen for the user."""

from tests.mutants.mutant import Mutant, laws

SUMS = "tests/ops/test_pool_sum.py::"
AUTO = "tests/samplers/test_auto.py::"
SIDE = "tests/stores/test_side_by_side.py::"
ORDER = "tests/ops/test_interleaved.py::"

MUTANTS = [
    Mutant(
        "pool: pairs that may not stand count",
        "ops/pool_sum.py",
        "        if lo < hi:\n",
        "        if False:\n",
        f"{SUMS}test_it_is_the_table",
    ),
    Mutant(
        "pool: gradients of a query without negatives",
        "ops/pool_sum.py",
        "log_sum = log_sum.masked_fill(log_sum == -torch.inf, 0.0)\n        query_grad",
        "query_grad",
        f"{SUMS}test_it_is_the_table",
    ),
    Mutant(
        "pool: squares without the peak",
        "ops/pool_sum.py",
        "2 * (torch.linalg.vector_norm(terms, dim=1).log_() + peak)",
        "2 * torch.linalg.vector_norm(terms, dim=1).log_()",
        f"{SUMS}test_it_is_the_table",
    ),
    Mutant(
        "pool: excluded pairs are expected",
        "ops/uniform.py",
        "index_add(0, columns, -weight[rows])",
        "index_add(0, columns, 0 * weight[rows])",
        laws("popularity-fresh"),
    ),
    Mutant(
        "auto: a batch's own positives are not expected",
        "samplers/auto.py",
        "alike(request.others) * self._log_share(ids).exp()",
        "self._log_share(ids).exp()",
        f"{AUTO}test_the_partition_is_unbiased_at_every_choice",
    ),
    Mutant(
        "auto: a look at few items is remembered as one at many",
        "samplers/budget.py",
        "KEPT * min(1.0, self.saw / len(rows))",
        "KEPT",
        f"{AUTO}test_what_few_items_said_counts_less_than_what_many_say",
    ),
    Mutant(
        "auto: hard negatives that were not looked at are not missed",
        "ops/gradient_cosine.py",
        "self.whole.cosine * power",
        "self.whole.cosine",
        f"{AUTO}test_what_part_of_the_items_does_not_see_is_foretold",
    ),
    Mutant(
        "auto: what is never drawn is not missed",
        "ops/gradient_cosine.py",
        "along += rest * self._product(vectors, parts, self.exact, p)",
        "along += rest * self._product(self.exact, p, self.exact, p)",
        f"{AUTO}test_the_cosine_foretold_is_the_cosine_found",
    ),
    Mutant(
        "auto: what no batch brings makes the batch alone worthless",
        "ops/gradient_cosine.py",
        "        rarity = rarity.clamp_max(NEVER)\n",
        "",
        f"{AUTO}test_what_never_stands_in_a_pool_is_missed",
    ),
    Mutant(
        "auto: an item of the pool stands for itself in a product",
        "ops/gradient_cosine.py",
        "crossed = (one * other).sum(1) - own @ self.weight",
        "crossed = (one * other).sum(1)",
        f"{AUTO}test_an_item_that_stands_for_many_is_one_item",
    ),
    Mutant(
        "auto: an item is looked at twice",
        "samplers/auto.py",
        "ids = torch.unique_consecutive(places).to(device)",
        "ids = places.to(device)",
        f"{AUTO}test_what_is_looked_at_is_looked_at_once",
    ),
    Mutant(
        "auto: a stale cache is taken for a fresh one",
        "samplers/look.py",
        "if stored is None else stored.exp()",
        "if True else stored.exp()",
        f"{AUTO}test_a_look_sees_how_stale_the_cache_is",
    ),
    Mutant(
        "auto: a cache is filled at once",
        "samplers/budget.py",
        "affordable = has_store or paid",
        "affordable = True",
        f"{AUTO}test_no_cache_is_filled_before_the_training_has_cost_as_much",
    ),
    Mutant(
        "auto: a cache is filled for whatever is foretold to be better",
        "samplers/budget.py",
        "gain = 1.0 if has_store else GAIN_OF_A_FILL",
        "gain = 1.0",
        f"{AUTO}test_a_cache_is_filled_for_more_than_a_little",
    ),
    Mutant(
        "auto: what was learnt is forgotten",
        "samplers/budget.py",
        'budget.seen = dict(_seen_from(*row) for row in state["seen"])',
        "pass",
        f"{AUTO}test_a_resumed_run_is_the_straight_one",
    ),
    Mutant(
        "auto: shares without discounts",
        "samplers/seen_positives.py",
        "discount = min(max(discount, 0.1), 0.9) if self.distinct < self.total else 1.0",
        "discount = 0.5",
        f"{AUTO}test_shares_are_counted_as_batches_come",
    ),
    Mutant(
        "side by side: an item has a row in each cache",
        "stores/side_by_side.py",
        "        known[otherwise] |= ~torch.stack(known).any(dim=0)\n",
        "        known[otherwise][:] = True\n",
        f"{SIDE}test_an_item_stays_in_its_cache_and_has_one_row",
    ),
    Mutant(
        "side by side: the parts of one cache follow those of another",
        "ops/interleaved.py",
        "return [part for _, part in sorted(found)]",
        "return [part for _, part in found]",
        f"{ORDER}test_the_order_is_that_of_one_process",
    ),
    Mutant(
        "side by side: observers are told of rows by their slot in one cache",
        "stores/side_by_side.py",
        "slots = self.order.slots(self.number, change.slots)",
        "slots = change.slots",
        f"{SIDE}test_sums_over_rows_hear_of_each_change_where_it_stands",
    ),
    Mutant(
        "side by side: a process reads of a state what stands where its rows stand in the whole",
        "ops/shards.py",
        "if any(table.has(name) for table in self.tables):",
        "if False:",
        f"{ORDER}test_what_any_table_wants_of_a_state_is_read",
    ),
]
