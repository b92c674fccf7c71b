"""Human genes -> Gene Ontology: 20,728 genes, 18,933 labels, 300,448 assignments.

Source: the Debian package r-bioc-org.hs.eg.db, release 3.16 of Bioconductor's org.Hs.eg.db
(NCBI Gene of September 2022, Gene Ontology of July 2022). A gene's text is its name, its symbol
and its aliases; its labels are the terms it is annotated with directly, whatever the evidence.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from benchmarks.datasets.fetching import DEBIAN, Package, fetch, unpack_deb
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import stable_split
from negcache.run.data.xc import write_xc

PACKAGE = Package(
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
    """What is known of the annotated genes."""

    ids: Sequence[str]
    texts: Sequence[str]
    labels: csr_array
    label_names: Sequence[str]


def write_genes(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Write ``train.txt``, ``dev.txt``, ``test.txt`` and ``labels.txt`` for `open_xc`.

    Features are tf-idf of the words and of the character trigrams within words that at least two
    training genes have; both halves have unit length, values are rounded to
    six decimals. A hash of the gene's id splits 80 / 10 / 10.

    Args:
        out: a folder; files of these names are replaced.
        cache_dir: where the download is kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    genes = _read(fetch(PACKAGE, cache, allow_other_version=allow_other_version))
    split = np.array([stable_split(gene) for gene in genes.ids])
    texts = np.array(genes.texts, dtype=object)
    words = TfidfVectorizer(min_df=2, token_pattern=r"\w+")
    trigrams = TfidfVectorizer(min_df=2, analyzer="char_wb", ngram_range=(3, 3))
    features = make_union(words, trigrams).fit(texts[split == "train"])
    for name in ("train", "dev", "test"):
        rows = features.transform(texts[split == name])
        rows.data = rows.data.round(6)
        write_xc(out / f"{name}.txt", rows, genes.labels[split == name])
    with atomic_write(out / "labels.txt") as part:
        part.write_text("\n".join(genes.label_names) + "\n", "utf-8")
    return out


def _read(deb: Path) -> Genes:
    """Genes with at least one label, in the order of the database."""
    with TemporaryDirectory(prefix="negcache-genes-") as folder:
        unpack_deb(deb, Path(folder))
        with closing(sqlite3.connect(Path(folder) / DATABASE)) as database:
            annotated = np.array(database.execute(ANNOTATED).fetchall(), dtype=object)
            told = database.execute(TEXTS).fetchall()
    keys, rows = np.unique(annotated[:, 0].astype(np.int64), return_inverse=True)
    names, columns = np.unique(annotated[:, 1].astype(str), return_inverse=True)
    labels = csr_array((np.ones(len(rows), np.int8), (rows, columns)), (len(keys), len(names)))
    texts = {key: (gene, text) for key, gene, text in told}
    chosen = [texts[key] for key in keys.tolist()]
    return Genes([gene for gene, _ in chosen], [text for _, text in chosen], labels, names.tolist())
