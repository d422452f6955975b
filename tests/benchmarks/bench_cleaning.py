"""Cleaning, masking, decontamination and duplicates, each beside its plain or usual form, on the
same texts and one core.

The embedded corpus, or, with arguments, the texts of those corpora (`bench_cleaning.py
'web/*.jsonl.gz'`). The peers: the steps of cleaning without the look that spares them; the masking
patterns run over all of a text; a Python set of word 13-grams; datasketch's MinHash with as many
permutations over the same shingles, on a sample, where it is installed.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np

from data_prep.build import dedup
from data_prep.cleaning import clean_document, decontaminate, ngrams, pii
from data_prep.config import CleaningConfig
from data_prep.sources import corpus_reader

EMBEDDED = "synthetic:clean?documents=12000"
N_QUESTIONS = 2000
SAMPLE = 200  # documents for the slowest peer
CONFIG = CleaningConfig(mask_personal=False)


def main() -> None:
    uris = sys.argv[1:] or [EMBEDDED]
    found = [
        document.text
        for source in corpus_reader.expand(uris)
        for document in corpus_reader.read(source)
    ]
    texts = [text for text in (clean_document.clean(text, CONFIG).text for text in found) if text]
    questions = [text[:400] for text in texts[:N_QUESTIONS]]
    rest, grams = texts[N_QUESTIONS:] or texts, decontaminate.NGrams.of(questions)
    print(
        f"{len(texts):,} texts, {_megabytes(texts):.1f} MB; MB/CPU-s, ours, the peer's, and the ratio"
    )

    _row(
        "clean: a look, or all steps",
        texts,
        lambda: [clean_document.clean(text, CONFIG).text for text in texts],
        lambda: _steps(texts),
    )
    _row(
        "mask: near hints, or everywhere",
        texts,
        lambda: [pii.mask(text) for text in texts],
        lambda: _patterns(texts),
    )
    _row(
        "decontaminate: hashes, or a set",
        rest,
        lambda: grams.hits(rest).tolist(),
        lambda: _python_hits(rest, questions),
    )
    _row(
        "exact duplicates: hashes, or the texts",
        texts,
        lambda: _n_kept(dedup.exact_hashes(texts)),
        lambda: len(set(texts)),
    )
    try:
        import datasketch  # noqa: F401
    except ImportError:
        print("near duplicates: datasketch is not installed (the extra `bench`)")
        return
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    _row(
        "near duplicates: rensa, or datasketch",
        sample,
        lambda: len(dedup.minhash_bands(sample)),
        lambda: _datasketch(sample),
    )


def _row(name: str, texts: Sequence[str], ours: Callable[[], Any], peer: Callable[[], Any]) -> None:
    megabytes = _megabytes(texts)
    fast, made = _cpu_seconds(ours, times=3)
    slow, expected = _cpu_seconds(peer, times=1)
    assert made == expected, f"{name}: another result than the peer's"
    print(
        f"  {name:<40} {megabytes / fast:8.1f} {megabytes / slow:8.1f} {slow / fast:8.1f}×",
        flush=True,
    )


def _steps(texts: Sequence[str]) -> list[str]:
    made = []
    for text in texts:
        for step in clean_document.STEPS:
            text = step(text)
        made.append(text)
    return made


def _patterns(texts: Sequence[str]) -> list[str]:
    made = []
    for text in texts:
        for kind in pii.KINDS:
            text = kind.pattern.sub(kind.replace, text)
        made.append(text)
    return made


def _python_hits(texts: Sequence[str], questions: Sequence[str], n: int = 13) -> list[bool]:
    sought, short = set[bytes](), list[bytes]()
    for words in map(ngrams.words, questions):
        sought.update(b" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        if decontaminate.SHORTEST <= len(words) < n:
            short.append(b" ".join([b"", *words, b""]))
    found = []
    for text in texts:
        words = ngrams.words(text)
        whole = b" ".join([b"", *words, b""])
        found.append(
            any(b" ".join(words[i : i + n]) in sought for i in range(len(words) - n + 1))
            or any(gram in whole for gram in short)
        )
    return found


def _n_kept(hashes: np.ndarray) -> int:
    return int(np.count_nonzero(~dedup.repeats(np.arange(len(hashes)), hashes)))


def _datasketch(texts: Sequence[str]) -> int:
    from datasketch import MinHash

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


def _cpu_seconds(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(times):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


if __name__ == "__main__":
    main()
