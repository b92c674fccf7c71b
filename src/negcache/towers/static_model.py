"""A static tower as a sentence-transformers model. Needs the extra ``transformers``."""

from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from torch import nn

from negcache.towers.model_folder import without_bars
from negcache.towers.static import StaticTower


def save_static(folder: Path, tower: StaticTower, tokenizer: Tokenizer, *, normalize: bool) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads and that embeds as the tower does.

    It is a ``StaticEmbedding`` of the token vectors, the linear map as a ``Dense``, and a
    ``Normalize`` where the score has unit norms.

    Args:
        folder: to be made.
        tower: to be written.
        tokenizer: of its tokens, with the length that texts are cut to.
        normalize: whether embeddings are brought to unit norm before they are scored.
    """
    own = Tokenizer.from_str(tokenizer.to_str())  # it will be changed
    out = Dense(tower.out.in_features, tower.out.out_features, activation_function=nn.Identity())
    out.linear.load_state_dict(tower.out.state_dict())
    parts = [
        StaticEmbedding(own, embedding_weights=tower.tokens.weight.detach().cpu().clone()),
        out,
    ]
    model = SentenceTransformer(
        modules=[*parts, *([Normalize()] if normalize else [])],
        similarity_fn_name="cosine" if normalize else "dot",
        device="cpu",
    )
    with without_bars():
        model.save(str(folder), create_model_card=False)
