"""Lines on the overlap of evaluation texts with the training text, from the records alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.build import stream_paths
from data_prep.core import storage
from data_prep.core.settings import evolve
from data_prep.overlap import overlap_record
from data_prep.overlap.overlap_record import SetOverlap
from launch.recipes import registry
from launch.recipes.embedded import EMBEDDED_PROBES
from launch.report.text import text_overlap

PROMPTS = "/data/prompts.jsonl"
SWEEP = evolve(
    registry.named("laptop"),
    {
        "eval.prompts": {"mine": f"{PROMPTS}#text=prompt"},
        "eval.probes": {"pairs": EMBEDDED_PROBES["pairs"]},
        "eval.benchmarks": {},
    },
)
RECORD = SetOverlap(
    format_version=overlap_record.FORMAT_VERSION,
    manifest_digest="m",
    texts_digest="t",
    uri=PROMPTS,
    ngram=13,
    n_texts=3000,
    n_searched=2990,
    n_found=12,
    is_whole_set=True,
    n_tokens_searched=500,
    n_tokens=500,
)
PROBES_LINE = (
    "probe rows pairs, the embedded corpus (probes): looked for when the streams were built; no "
    "training document has 13 words in a row of one of its texts"
)


def save(root: Path, name: str, record: SetOverlap) -> None:
    folder = storage.join(str(root), stream_paths.stream_uri(SWEEP.data, name))  # type: ignore[arg-type]
    storage.save(record, overlap_record.record_uri(folder, f"{PROMPTS}#text=prompt"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "12 of 3,000 (0.4\u00a0%) in the clean stream and 0 of 3,000 (0\u00a0%) in the toxic "
            "stream; 10 too short to be looked for",
        ),
        (
            {"n_tokens_searched": 50, "n_searched": 3000},
            "12 of 3,000 (0.4\u00a0%) in the clean stream, of which 10\u00a0% was searched and "
            "0 of 3,000 (0\u00a0%) in the toxic stream",
        ),
        (
            {"is_whole_set": False, "n_searched": 3000},
            "12 of the first 3,000 (0.4\u00a0%) in the clean stream and 0 of 3,000 (0\u00a0%) in "
            "the toxic stream",
        ),
    ],
)
def test_a_set_is_told_with_its_share_per_stream(tmp_path, changes, expected):
    save(tmp_path, "clean", replace(RECORD, **changes))
    save(tmp_path, "toxic", replace(RECORD, n_found=0, n_searched=changes.get("n_searched", 2990)))
    lines = text_overlap.lines(text_overlap.read(str(tmp_path), SWEEP))
    assert lines == [
        PROBES_LINE,
        "prompts mine, prompts.jsonl: texts that share 13 words in a row with a training document: "
        + expected,
    ]


def test_a_set_that_is_not_measured_is_said_to_be_so(tmp_path):
    overlaps = text_overlap.read(str(tmp_path), SWEEP)
    assert text_overlap.lines(overlaps)[1] == (
        "prompts mine, prompts.jsonl: overlap with the training text not measured"
    )
    assert text_overlap.is_missing(overlaps, 0.01) and not text_overlap.is_missing(overlaps, 0.0)


def test_a_search_of_fewer_shards_than_asked_for_is_missing(tmp_path):
    for name in ("clean", "toxic"):
        save(tmp_path, name, replace(RECORD, n_tokens_searched=100))
    overlaps = text_overlap.read(str(tmp_path), SWEEP)
    assert not text_overlap.is_missing(overlaps, 0.2) and text_overlap.is_missing(overlaps, 0.3)


def test_held_out_documents_of_the_streams_are_no_set():
    sweep = registry.on_corpora(registry.named("laptop"), ["a.jsonl"], ["b.jsonl"])
    assert text_overlap.read("/nowhere", sweep) == []


def test_every_kind_of_text_that_an_evaluation_names_is_a_set(tmp_path):
    changes = {
        "eval.probing.transfer": ("t.csv#label=x",),
        "eval.probing.attributes": ("a.csv#label=x",),
        "eval.benchmarks": {"arc": "cloze:b.jsonl#text=question&choices=options"},
        "eval.capability.held_out": ("owt=o.jsonl",),
    }
    sweep = evolve(SWEEP, changes)
    lines = text_overlap.lines(text_overlap.read(str(tmp_path), sweep))
    assert [line.partition(":")[0] for line in lines] == [
        "probe rows pairs, the embedded corpus (probes)",
        "prompts mine, prompts.jsonl",
        "transfer, t.csv",
        "other attribute, a.csv",
        "benchmark arc, b.jsonl",
        "held-out text owt, o.jsonl",
    ]
