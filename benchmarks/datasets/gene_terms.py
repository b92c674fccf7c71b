"""Human genes -> the names of their Gene Ontology terms: labels with text on both sides.

20,728 queries, 18,933 items, 300,448 pairs: genes, terms and split of ``genes``. Its database knows
terms by their ids alone (GO:0008150); their names are those of the package that the task ``go``
reads, r-bioc-go.db of the same release, which has all of them, each name once. A query has 14.5
positives.

"protein binding" answers 61 % of the queries, so MRR@10 says little here: the ten commonest terms
of train, for every query alike, have .67 on test, with R@10 .22; the hundred commonest R@100 .48.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.datasets.annotated_genes import GENES, Genes, read_genes
from benchmarks.datasets.fetching import fetch
from benchmarks.datasets.go import PACKAGE, term_names
from negcache.errors import InputError
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import Rows, Tables, from_rows, stable_split
from negcache.run.data.write import write_tables


def write_gene_terms(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Human genes -> names of their Gene Ontology terms, as a BEIR folder.

    Args:
        out: a folder that does not exist yet, or is empty.
        cache_dir: where the downloads are kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    return write_tables(out, lambda: gene_tables(cache, allow_other_version=allow_other_version))


def gene_tables(cache: Path, *, allow_other_version: bool = False) -> Tables:
    """Fetch genes and ontology once; ids are those of NCBI Gene and of the ontology."""
    genes = fetch(GENES, cache, allow_other_version=allow_other_version)
    ontology = fetch(PACKAGE, cache, allow_other_version=allow_other_version)
    return from_rows(
        "gene-terms",
        (genes, ontology),
        lambda: rows_of_genes(read_genes(genes), term_names(ontology)),
    )


def rows_of_genes(genes: Genes, names: Mapping[str, str]) -> Rows:
    """Genes become queries, their terms items; a hash of the gene's id splits 80 / 10 / 10.

    Args:
        genes: and the terms of each.
        names: of terms, by their ids.

    Raises:
        InputError: a term without a name.
    """
    nameless = [term for term in genes.label_names if term not in names]
    if nameless:
        raise InputError(
            f"a name of each of the {len(genes.label_names):,} terms",
            f"{len(nameless):,} without one, {nameless[0]} for instance",
            "take genes and ontology of the same release",
        )
    judged: dict[str, list[tuple[str, str]]] = {"train": [], "dev": [], "test": []}
    for row, column in zip(*genes.labels.nonzero(), strict=True):
        gene, term = genes.ids[int(row)], genes.label_names[int(column)]
        judged[stable_split(gene)].append((gene, term))
    return Rows(
        corpus=[(term, names[term]) for term in genes.label_names],
        queries=list(zip(genes.ids, genes.texts, strict=True)),
        judged=judged,
    )
