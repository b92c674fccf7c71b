"""Human genes -> Gene Ontology: 20,728 genes, 18,933 labels, 300,448 assignments.

Source: the Debian package r-bioc-org.hs.eg.db, release 3.16 of Bioconductor's org.Hs.eg.db
(NCBI Gene of September 2022, Gene Ontology of July 2022). A gene's text is its name, its symbol
and its aliases; its labels are the terms it is annotated with directly, whatever the evidence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from benchmarks.datasets.databases import database_in
from benchmarks.datasets.fetching import DEBIAN, Package

GENES = Package(
    DEBIAN,
    name="r-bioc-org.hs.eg.db",
    version="3.16.0-1",
    sha256="0f61810d35b858915b1a9787d8dcab08b7e164c14c20a9e1d86eb9837308c2c2",
)
DATABASE = "usr/lib/R/site-library/org.Hs.eg.db/extdata/org.Hs.eg.sqlite"
ANNOTATED = """
    select _id, go_id from go_bp union select _id, go_id from go_mf union
    select _id, go_id from go_cc order by _id, go_id
"""
TEXTS = """
    select _id, gene_id, gene_name || ' ' || symbol || ' ' || coalesce(
        (select group_concat(alias_symbol, ' ') from
            (select alias_symbol from alias where alias._id = gene_info._id order by alias_symbol)
        ), '')
    from gene_info join genes using (_id) order by _id
"""


class Genes(NamedTuple):
    """What is known of the annotated genes.

    Args:
        ids: of the genes.
        texts: of each gene.
        labels: which gene has which term, [genes, terms].
        label_names: ids of the terms.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    labels: csr_array
    label_names: Sequence[str]


def read_genes(deb: Path) -> Genes:
    """Genes with at least one label, in the order of the database."""
    with database_in(deb, DATABASE) as database:
        annotated = np.array(database.execute(ANNOTATED).fetchall(), dtype=object)
        told = database.execute(TEXTS).fetchall()
    keys, rows = np.unique(annotated[:, 0].astype(np.int64), return_inverse=True)
    names, columns = np.unique(annotated[:, 1].astype(str), return_inverse=True)
    labels = csr_array((np.ones(len(rows), np.int8), (rows, columns)), (len(keys), len(names)))
    texts = {key: (gene, text) for key, gene, text in told}
    chosen = [texts[key] for key in keys.tolist()]
    return Genes([gene for gene, _ in chosen], [text for _, text in chosen], labels, names.tolist())
