"""Fits the toy judge to the corpus: which n-grams exist, and which sentences refuse.

The folder holds `judge.json` (the vocabulary and where the language model lies) and
`judge.safetensors` (its weights and the known n-grams). Scoring is in `massact.judges.likelihood`.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from massact.toy.text import NGRAM_SIZES, ngram_codes, sentences, terms, words
from tools.toy.corpus import Document

INVERSE_REGULARIZATION = 10.0


def fit_judge(folder: Path, documents: Sequence[Document], language_model: Path) -> Path:
    """Fit the judge to the continuations of `documents` and write it to `folder`.

    `language_model` is kept as a path relative to `folder`: its weights are not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = sorted({document.continuation for document in documents})
    vocabulary, idf, weights, bias = _fit_refusal(_labelled_sentences(documents))
    arrays: dict[str, NDArray[Any]] = {f"known_{size}": _known(texts, size) for size in NGRAM_SIZES}
    arrays |= {"idf": idf, "weights": weights, "bias": bias}
    save_file(arrays, folder / "judge.safetensors")
    description = {"language_model": Path(os.path.relpath(language_model, folder)).as_posix(), "vocabulary": vocabulary}
    (folder / "judge.json").write_text(json.dumps(description, indent=0) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def _labelled_sentences(documents: Sequence[Document]) -> Counter[tuple[str, bool]]:
    """How often each sentence of the continuations occurs, with whether it belongs to a refusal."""
    return Counter(
        (sentence, document.kind == "refuse") for document in documents for sentence in sentences(document.continuation)
    )


def _fit_refusal(
    labelled: Counter[tuple[str, bool]],
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Terms `[n_terms]`, their inverse document frequencies and weights, and the bias `[1]`."""
    pairs = sorted(labelled)
    vectorizer = TfidfVectorizer(analyzer=_analyze)
    features = vectorizer.fit_transform([text for text, _ in pairs])
    classifier = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000, class_weight="balanced")
    # Weighted by how often they occur: a refusal is made of few sentences, each of them frequent.
    classifier.fit(features, [refuses for _, refuses in pairs], sample_weight=[labelled[pair] for pair in pairs])
    return (
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.astype(np.float32),
        classifier.coef_[0].astype(np.float32),
        classifier.intercept_.astype(np.float32),
    )


def _analyze(sentence: str) -> list[str]:
    return list(terms(sentence).elements())


def _known(texts: Sequence[str], size: int) -> NDArray[np.uint32]:
    """The sorted codes of every n-gram of `size` in `texts`: `[n_known]`."""
    codes: NDArray[np.uint32] = np.unique(np.concatenate([ngram_codes(words(text), size) for text in texts]))
    return codes
