"""cleaning, masking, decontamination and dedup against plain or common implementations

    python tests/benchmarks/bench_cleaning.py ['web/*.jsonl.gz' …]

Both sides process the same texts on one core: the embedded corpus, or the texts of the given
corpora. The peers are the cleaning steps without the quick look that skips them; the masking
patterns applied to the whole text; a Python set of word 13-grams; and datasketch's MinHash with as
many permutations over the same shingles, on a sample and if it is installed.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np

from data_prep.build import dedup
from data_prep.cleaning import clean_document, decontaminate, ngrams, pii
from data_prep.config import CleaningConfig
from data_prep.sources import corpus_reader

EMBEDDED = "synthetic:clean?documents=12000"
N_QUESTIONS = 2000
QUESTION_CHARS = 400
N_SAMPLED = 200  # documents for the slowest peer
CONFIG = CleaningConfig(mask_personal=False)


class TimedRun(NamedTuple):
    """The smallest CPU time of a piece of work, and its result."""

    seconds: float
    result: Any


def main() -> None:
    documents = [
        document.text
        for source in corpus_reader.expand(sys.argv[1:] or [EMBEDDED])
        for document in corpus_reader.read(source)
    ]
    texts = [clean_document.clean(text, CONFIG).text for text in documents]
    texts = [text for text in texts if text]
    questions = [text[:QUESTION_CHARS] for text in texts[:N_QUESTIONS]]
    others = texts[N_QUESTIONS:] or texts
    grams = decontaminate.NGrams.of(questions)
    print(
        f"{len(texts):,} texts, {_megabytes(texts):.1f} MB; "
        "MB/CPU-s of ours and of the peer, and their ratio"
    )

    _compare(
        "clean: quick look, or all steps",
        texts,
        lambda: [clean_document.clean(text, CONFIG).text for text in texts],
        lambda: _all_steps(texts),
    )
    sample = texts[:: max(1, len(texts) // N_SAMPLED)]
    _compare(
        "mask: near hints, or everywhere",
        sample,
        lambda: [pii.mask(text) for text in sample],
        lambda: _all_rules(sample),
    )
    _compare(
        "decontaminate: hashes, or a set",
        others,
        lambda: grams.hits(others).tolist(),
        lambda: _hits_by_sets(others, questions),
    )
    _compare(
        "exact dedup: hashes, or the texts",
        texts,
        lambda: _n_distinct(dedup.exact_hashes(texts)),
        lambda: len(set(texts)),
    )
    try:
        import datasketch  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        print("near dedup: datasketch is not installed (extra `bench`)")
        return
    _compare(
        "near dedup: rensa, or datasketch",
        sample,
        lambda: len(dedup.minhash_bands(sample)),
        lambda: _minhash_by_datasketch(sample),
    )


def _compare(
    name: str, texts: Sequence[str], ours: Callable[[], Any], peer: Callable[[], Any]
) -> None:
    megabytes = _megabytes(texts)
    our_time = _cpu_time(ours, repeats=3)
    peer_time = _cpu_time(peer, repeats=1)
    assert our_time.result == peer_time.result, f"{name}: the results differ"
    print(
        f"  {name:<40} {megabytes / our_time.seconds:8.1f} {megabytes / peer_time.seconds:8.1f} "
        f"{peer_time.seconds / our_time.seconds:8.1f}×",
        flush=True,
    )


def _all_steps(texts: Sequence[str]) -> list[str]:
    cleaned = []
    for text in texts:
        for step in clean_document.STEPS:
            text = step(text)
        cleaned.append(text)
    return cleaned


def _all_rules(texts: Sequence[str]) -> list[str]:
    """The texts with the rules of masking tried at every character."""
    masked = []
    for text in texts:
        for kind in pii.KINDS:
            pieces = list[str]()
            n_done = 0
            for position in range(len(text)):
                if position >= n_done and (finding := kind.find(text, position, n_done)):
                    pieces += text[n_done : finding.start], finding.replacement
                    n_done = finding.end
            text = "".join([*pieces, text[n_done:]])
        masked.append(text)
    return masked


def _hits_by_sets(texts: Sequence[str], questions: Sequence[str], n: int = 13) -> list[bool]:
    known = set[bytes]()
    short = list[bytes]()
    for words in map(ngrams.words, questions):
        known.update(_ngrams(words, n))
        if decontaminate.MIN_WORDS <= len(words) < n:
            short.append(_padded(words))
    hits = []
    for words in map(ngrams.words, texts):
        whole = _padded(words)
        has_ngram = any(gram in known for gram in _ngrams(words, n))
        hits.append(has_ngram or any(gram in whole for gram in short))
    return hits


def _ngrams(words: list[bytes], n: int) -> list[bytes]:
    return [b" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def _padded(words: list[bytes]) -> bytes:
    return b" ".join([b"", *words, b""])


def _n_distinct(hashes: np.ndarray) -> int:
    return int(np.count_nonzero(~dedup.repeats(np.arange(len(hashes)), hashes)))


def _minhash_by_datasketch(texts: Sequence[str]) -> int:
    from datasketch import MinHash  # pyright: ignore[reportMissingImports]

    n = dedup.SHINGLE_WORDS
    for text in texts:
        words = ngrams.words(text)
        minhash = MinHash(num_perm=dedup.N_BANDS * dedup.N_ROWS)
        minhash.update_batch(
            [b" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))]
        )
    return len(texts)


def _megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode(errors="replace")) for text in texts) / 1e6


def _cpu_time(work: Callable[[], Any], repeats: int) -> TimedRun:
    best = TimedRun(float("inf"), None)
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = TimedRun(min(best.seconds, time.process_time() - start), result)
    return best


if __name__ == "__main__":
    main()
