"""Metrics of generated texts with one reference each, from 0 to 1, by the libraries that the field
uses: ROUGE (F1) by rouge-score, BLEU by sacrebleu, METEOR by nltk. Case does not count, since the
tokenizer lower-cases.

METEOR matches equal words and equal stems. Its synonyms are those of WordNet, which nltk downloads,
and nothing is downloaded here: `meteor_no_synonyms` is at most METEOR.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

ROUGE = ("rouge1", "rouge2", "rougeL")
METEOR = "meteor_no_synonyms"
OVERLAPS = (*ROUGE, METEOR)
"""Metrics of a corpus that are the mean over its examples."""


class _NoSynonyms:
    """Takes the place of nltk's WordNet."""

    def synsets(self, word: str) -> list[Any]:  # noqa: ARG002
        return []


@lru_cache(1 << 16)
def overlap(reference: str, text: str) -> dict[str, float]:
    """All `OVERLAPS` of one text; METEOR of the words that ROUGE sees: letters and digits."""
    from nltk.translate.meteor_score import single_meteor_score
    from rouge_score.tokenize import tokenize

    found = {name: one.fmeasure for name, one in _rouge().score(reference, text).items()}
    words = [tokenize(one, None) for one in (reference, text)]
    return {**found, METEOR: single_meteor_score(*words, wordnet=_NoSynonyms())}


def overlaps(metric: str, references: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """(n,) references and texts -> (n,) values of one of `OVERLAPS`."""
    pairs = zip(references.tolist(), texts.tolist(), strict=True)
    return np.asarray([overlap(reference, text)[metric] for reference, text in pairs])


def mean_overlap(metric: str, references: np.ndarray, texts: np.ndarray) -> float:
    """The mean of `overlaps`."""
    return float(np.mean(overlaps(metric, references, texts)))


def bleu(references: np.ndarray, texts: np.ndarray) -> float:
    """BLEU of the corpus, not a mean over its examples."""
    return _bleu().corpus_score(texts.tolist(), [references.tolist()]).score / 100


def bleu_signature() -> str:
    """What sacrebleu calls the form of BLEU that `bleu` computes."""
    found = _bleu()
    found.corpus_score([""], [[""]])  # the signature has the number of references
    return str(found.get_signature())


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    return BLEU(lowercase=True)


@cache
def _rouge() -> Any:  # rouge-score has no types
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(ROUGE)
