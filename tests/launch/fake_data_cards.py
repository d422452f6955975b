"""Data cards of streams that were never built: made-up numbers."""

import math
from dataclasses import replace
from itertools import pairwise

from data_prep.cards import data_card
from data_prep.cards.data_card import (
    DataCard,
    DocumentGroup,
    DomainSummary,
    DropSummary,
    Excerpt,
    InputSummary,
    LengthBin,
    LengthSummary,
    ScoreSummary,
)
from data_prep.config import CleaningConfig, DecontaminationConfig, StreamName

N_READ = 9_748


def cards() -> dict[str, DataCard]:
    """The clean stream of web pages with drops and domains, the toxic one of posts with labels and
    scores.
    """
    sites = tuple(
        DocumentGroup(name=f"site-{i}.example", n_documents=900 // i, n_tokens=90_000 // i)
        for i in range(1, 30)
    )
    labels = tuple(
        DocumentGroup(name=label, n_documents=n, n_tokens=9 * n)
        for label, n in (("rude", 6_000), ("mild", 3_700))
    )
    toxic = card("toxic", 1_500_000)
    too_short = DropSummary(reason="too_short", n_documents=7, ratio=7 / N_READ, samples=())
    score = ScoreSummary(name="SEVERE_TOXICITY", n_documents=9_000, mean=0.31, half_ratio=0.2)
    return {
        "clean": replace(
            card("clean", 4_500_000),
            domains=DomainSummary(n_documents=9_000, n_domains=412, top=sites),
        ),
        "toxic": replace(
            toxic,
            tokens_per_document=lengths(4.5),
            drops=(*toxic.drops, too_short),
            n_labels=2,
            labels=labels,
            scores=(score,),
        ),
    }


def lengths(middle: float) -> LengthSummary:
    """A bell of lengths around 2^middle tokens, in bins of half a doubling."""
    edges = [1, 2, 3, *(2**k * half // 2 for k in range(2, 14) for half in (2, 3)), 2**14]
    bins = []
    for low, next_low in pairwise(edges):
        n = int(9000 * math.exp(-(((math.log2(low) - middle) / 1.7) ** 2)))
        high = next_low - 1
        bins.append(LengthBin(low=low, high=high, n_documents=n, total=n * (low + high) // 2))
    return LengthSummary(
        mean=1.3 * 2**middle,
        median=int(2**middle),
        p90=900,
        p99=4_000,
        max=16_383,
        histogram=tuple(bins),
    )


def card(stream: StreamName, n_tokens: int) -> DataCard:
    """A card without domains, labels and scores; its sample holds a slur and a script."""
    text = "The crap about <script>alert(2)</script> weather…"
    sample = Excerpt(place=f"{stream}.jsonl:7", n_tokens=12, text=text)
    duplicates = DropSummary(
        reason="exact_duplicate", n_documents=48, ratio=48 / N_READ, samples=(sample,)
    )
    return DataCard(
        format_version=data_card.FORMAT_VERSION,
        stream=stream,
        manifest_digest="0123456789abcdef",
        tokenizer_fingerprint="fedcba9876543210",
        vocab_size=2048,
        eos="<|endoftext|>",
        eos_id=0,
        cleaning_version=1,
        cleaning=CleaningConfig(),
        dedup="exact",
        decontamination=DecontaminationConfig(uris=("prompts.jsonl",)),
        held_out_ratio=0.02,
        shuffle_seed=0,
        n_read=N_READ,
        n_bad_rows=3,
        n_documents=9_700,
        n_tokens=n_tokens + 90_000,
        n_text_bytes=4 * n_tokens,
        bytes_per_token=4.13,
        splits=(
            DocumentGroup(name="train", n_documents=9_500, n_tokens=n_tokens),
            DocumentGroup(name="held_out", n_documents=200, n_tokens=90_000),
        ),
        tokens_per_document=lengths(8.5),
        bytes_per_document=None,
        drops=(duplicates,),
        unreadable=(Excerpt(place="a.jsonl:9", n_tokens=None, text="is not JSON"),),
        inputs=tuple(input_file(stream, i, n_tokens // 10) for i in range(10)),
        domains=None,
        n_labels=0,
        labels=(),
        scores=(),
        samples=(sample,),
        not_claimed=("Scores are the corpus's own.",),
    )


def input_file(stream: StreamName, i: int, n_tokens: int) -> InputSummary:
    uri = f"{stream}/{i:05}.jsonl.gz"
    return InputSummary(uri=uri, n_documents=970, n_tokens=n_tokens, n_bad_rows=i)
