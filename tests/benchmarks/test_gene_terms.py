"""Genes and the names of their terms: all terms of a gene, in the split of its id."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks.datasets.annotated_genes import Genes
from benchmarks.datasets.gene_terms import gene_tables, rows_of_genes
from negcache.errors import InputError
from negcache.run.data.tables import stable_split

NAMES = {"GO:1": "cell death", "GO:2": "binding", "GO:3": "growth", "GO:9": "of no gene"}
LABELS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]] * 10)


@pytest.fixture
def genes():
    ids = [str(number) for number in range(30)]
    texts = [f"gene {number}" for number in ids]
    return Genes(ids, texts, csr_array(LABELS), ["GO:1", "GO:2", "GO:3"])


def test_every_gene_asks_for_the_names_of_its_terms(genes):
    rows = rows_of_genes(genes, NAMES)
    assert rows.corpus == [("GO:1", "cell death"), ("GO:2", "binding"), ("GO:3", "growth")]
    assert rows.queries == [(gene, f"gene {gene}") for gene in genes.ids]
    assert sum(map(len, rows.judged.values())) == LABELS.sum()
    for split, pairs in rows.judged.items():
        own = [i for i, gene in enumerate(genes.ids) if stable_split(gene) == split]
        assert own
        assert pairs == [(str(i), f"GO:{j + 1}") for i in own for j in np.flatnonzero(LABELS[i])]


def test_a_term_without_a_name(genes):
    with pytest.raises(InputError, match=r"the 3 terms; got 1 without one, GO:2 for instance"):
        rows_of_genes(genes, {"GO:1": "cell death", "GO:3": "growth"})


@pytest.mark.slow
@pytest.mark.network
def test_gene_terms_are_what_they_were(tmp_path):
    tables = gene_tables(tmp_path)
    items = [row["text"] for batch in tables.corpus() for row in batch.to_pylist()]
    queries = [row["text"] for batch in tables.queries() for row in batch.to_pylist()]
    sizes = {split: judged.num_rows for split, judged in tables.splits().items()}
    assert len(items) == len(set(items)) == 18_933
    assert len(queries) == len(set(queries)) == 20_728
    assert sizes == {"train": 239_738, "dev": 30_560, "test": 30_150}  # as `genes`
    assert "mitochondrial genome maintenance" in items
