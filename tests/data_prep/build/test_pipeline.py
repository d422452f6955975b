"""A build gives one stream, whatever its tasks, its interruptions and its neighbours."""

import json
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_build import CONFIG, TEXTS, config_for_files, file_contents, given_tokenizer, write_jsonl

from data_prep import build_streams
from data_prep.build import (
    dedup,
    merge_shards,
    pipeline,
    stream_paths,
    tokenize_file,
    train_tokenizer,
)
from data_prep.cards import data_card
from data_prep.config import AnnotationConfig, CleaningConfig, DataConfig, DecontaminationConfig
from data_prep.core import ray_tasks, records, storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.settings import evolve
from data_prep.core.store import ranged_reads
from data_prep.sources import corpus_reader
from data_prep.token_stream import manifest, megatron_shards, reader, shuffle_key, text_hashes
from data_prep.token_stream.manifest import Manifest, Split
from data_prep.token_stream.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")
SPLITS: tuple[Split, ...] = ("held_out", "train")  # in the order of the shuffle keys


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Both streams, built once for the tests that only read them."""
    folder = tmp_path_factory.mktemp("root")
    for stream in ("clean", "toxic"):
        pipeline.build(CONFIG, stream, str(folder))
    return folder


class StreamUnderTest(NamedTuple):
    uri: str
    manifest: Manifest
    tokenizer: Tokenizer


def clean_stream(root: Path, config: DataConfig = CONFIG) -> StreamUnderTest:
    uri = str(root / stream_paths.stream_uri(config, "clean"))
    tokenizer = train_tokenizer.build_tokenizer(config, str(root))
    return StreamUnderTest(uri, manifest.load(uri), tokenizer)


def provenance(built: StreamUnderTest, splits: Iterable[Split] = SPLITS) -> list[dict]:
    return [
        row
        for split in splits
        for shard in built.manifest.shards(split)
        for row in pq.read_table(f"{built.uri}/{shard.name}.documents.parquet").to_pylist()
    ]


def documents(built: StreamUnderTest, splits: Iterable[Split] = SPLITS) -> list[np.ndarray]:
    return [
        ids
        for split in splits
        for ids in reader.read_documents(built.uri, built.manifest, split, 1000)
    ]


def test_every_document_is_in_exactly_one_split(root: Path) -> None:
    built = clean_stream(root)
    megatron_shards.verify(built.uri, built.manifest)
    rows = provenance(built)
    decoded = [built.tokenizer.decode(ids) for ids in documents(built)]
    texts_by_place = {
        (row["uri"], row["row"]): text for row, text in zip(rows, decoded, strict=True)
    }
    assert [row["n_tokens"] for row in rows] == [len(ids) + 1 for ids in documents(built)]
    assert len(rows) == built.manifest.n_documents == 90
    assert texts_by_place == {
        (source.uri, document.row): document.text
        for source in corpus_reader.expand(CONFIG.clean)
        for document in corpus_reader.read(source)
    }


def test_documents_are_in_order_of_their_keys_over_all_files(root: Path) -> None:
    built = clean_stream(root)
    rows = provenance(built)
    keys = [row["key"] for row in rows]
    assert keys == sorted(keys)
    sha256 = {file.uri: file.sha256 for file in built.manifest.inputs}
    assert keys == [
        int(shuffle_key.shuffle_keys(sha256[row["uri"]], row["row"], 0, 0)) for row in rows
    ]
    files = [row["uri"] for row in provenance(built, ["train"])]
    assert sum(a != b for a, b in pairwise(files)) > len(files) / 3  # files alternate


def test_held_out_keys_lie_below_the_bound(root: Path) -> None:
    built = clean_stream(root)
    held_out, train = (provenance(built, [split]) for split in SPLITS)
    assert held_out[-1]["key"] < 0.2 * 2**64 <= train[0]["key"]


def test_shards_have_exactly_their_size_and_documents_cross_them(root: Path) -> None:
    train = clean_stream(root).manifest.train
    assert len(train) > 2
    assert all(shard.n_tokens == CONFIG.shard_tokens for shard in train[:-1])
    assert sum(shard.n_continued_tokens > 0 for shard in train) > 1


@pytest.mark.parametrize("kind", ["meda", "inst"])
def test_an_annotated_stream_has_the_documents_of_its_plain_twin(
    root: Path, tmp_path: Path, kind: Literal["meda", "inst"]
) -> None:
    annotation = AnnotationConfig(kind=kind, scorer="lexicon:synthetic:lexicon", tagged_ratio=0.5)
    config = replace(CONFIG, annotation=annotation)
    pipeline.build(config, "clean", str(tmp_path))
    plain, twin = clean_stream(root), clean_stream(tmp_path, config)
    megatron_shards.verify(twin.uri, twin.manifest)
    # trained on text without annotations, so it is the same file
    tokenizers = [Path(folder) / stream_paths.tokenizer_uri(config) for folder in (root, tmp_path)]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    held_out = [
        b"".join(
            Path(built.uri, f"{shard.name}.bin").read_bytes() for shard in built.manifest.held_out
        )
        for built in (plain, twin)
    ]
    assert held_out[0] == held_out[1] != b""
    assert twin.manifest.drops == plain.manifest.drops
    texts: dict[str, list[tuple[str, int, str]]] = {}
    for built in (plain, twin):
        for split in SPLITS:
            decoded = [plain.tokenizer.decode(ids) for ids in documents(built, [split])]
            texts[f"{split} {built is twin}"] = [
                (row["uri"], row["row"], text)
                for row, text in zip(provenance(built, [split]), decoded, strict=True)
            ]
    assert texts["held_out True"] == texts["held_out False"]
    prefixes = []
    for (*place, text), (*plain_place, plain_text) in zip(
        texts["train True"], texts["train False"], strict=True
    ):
        assert place == plain_place
        prefixes.append(text.removesuffix(plain_text))
    written = {
        "meda": {"toxicity: 0.0\n"},
        "inst": {"The following text is not toxic.\n", "The following text is toxic.\n"},
    }
    assert set(prefixes) >= {"", *written[kind]}
    assert 20 < sum(map(bool, prefixes)) < 60  # half of 72


@pytest.mark.parametrize(
    ("scorer", "is_warned"), [("profanity", True), ("lexicon:synthetic:lexicon", False)]
)
def test_a_scorer_that_finds_no_toxic_text_is_warned_of(
    tmp_path: Path, scorer: str, is_warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(CONFIG, annotation=AnnotationConfig(kind="inst", scorer=scorer))
    pipeline.build(config, "toxic", str(tmp_path))
    assert ("can hardly learn the difference" in caplog.text) == is_warned


def test_an_annotation_without_any_score_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, annotation=AnnotationConfig(kind="meda", scorer="corpus:toxicity"))
    with pytest.raises(ConfigurationError, match="the toxic corpus: no document was annotated"):
        pipeline.build(config, "toxic", str(tmp_path))


def test_the_manifest_counts_the_stream_and_names_no_machine(root: Path) -> None:
    _, known, tokenizer = clean_stream(root)
    assert known.n_tokens == known.split_tokens("train") + known.split_tokens("held_out")
    assert known.n_tokens == sum(file.n_tokens for file in known.inputs)
    assert known.tokenizer_fingerprint == tokenizer.fingerprint
    assert (known.vocab_size, known.eos_id, known.dtype) == (400, 0, "uint16")
    sources = corpus_reader.expand(CONFIG.clean)
    assert [file.uri for file in known.inputs] == [source.uri for source in sources]
    assert str(root.parent) not in records.to_json(known)


def test_the_work_in_progress_is_removed(root: Path) -> None:
    assert not list((root / "work").rglob("*.*"))


def test_a_build_elsewhere_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_tasks, "TASKS_PER_CPU", 1)
        for stream in ("toxic", "clean"):
            pipeline.build(CONFIG, stream, str(tmp_path))
    assert file_contents(tmp_path) == file_contents(root)


def test_sizes_of_segments_batches_and_ranges_change_no_byte(root: Path, tmp_path: Path) -> None:
    job = pipeline.prepare(CONFIG, "clean", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_file, "BATCH_DOCUMENTS", 2)
        patch.setattr(tokenize_file, "SEGMENT_DOCUMENTS", 5)
        patch.setattr(merge_shards, "BUCKETS_PER_SHARD", 3)
        patch.setattr(dedup, "HASHES_PER_TASK", 20)
        # in this process, where the patches are
        patch.setattr(ray_tasks, "run", lambda tasks, *_: (t.function(*t.arguments) for t in tasks))
        patch.setattr(ray_tasks, "share", lambda value: value)
        pipeline.run_passes(job)
    assert len(list((tmp_path / "work").rglob("segment-*.json"))) >= 15
    assert len(list((tmp_path / "work").rglob("*-of-00005.parquet"))) == 5
    stream = stream_paths.stream_uri(CONFIG, "clean")
    built, expected = file_contents(tmp_path / stream), file_contents(root / stream)
    assert text_hashes.read(text_hashes.files(str(tmp_path / stream)), 0, 1 << 64).hashes.size == 90
    for files in (built, expected):  # made by build(), or as many as there are ranges of hashes
        for name in [
            n for n in files if n.startswith(("texts-", "common-")) or n == data_card.NAME
        ]:
            del files[name]
    assert built == expected


def test_a_build_that_lost_any_of_its_files_gives_the_same_bytes(
    root: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    expected = {name: data for name, data in file_contents(root).items() if "toxic" not in name}
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        job = pipeline.prepare(CONFIG, "clean", str(folder))
        inputs = pipeline.tokenize_inputs(job)
        duplicates = pipeline.find_duplicates(job, inputs)
        kept = pipeline.count_kept(job, inputs, duplicates)
        pipeline.merge_into_shards(job, inputs, duplicates, kept)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 20
        for path in chance.sample(files, len(files) // 2):
            path.unlink()
        pipeline.build(CONFIG, "clean", str(folder))
        assert file_contents(folder) == expected


def test_a_complete_shard_is_kept_and_a_damaged_one_merged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pipeline.prepare(CONFIG, "clean", str(tmp_path))
    inputs = pipeline.tokenize_inputs(job)
    duplicates = pipeline.find_duplicates(job, inputs)
    kept = pipeline.count_kept(job, inputs, duplicates)
    buckets = merge_shards.buckets_for(inputs, CONFIG)[0]
    tokens_per_bucket = np.sum([of.tokens_per_bucket["train"] for of in kept], axis=0)
    plans = list(merge_shards.plan_shards(buckets, tokens_per_bucket, CONFIG.shard_tokens))
    to_merge = merge_shards.segments_to_merge(inputs, duplicates, kept)
    stream_uri, records_uri = str(tmp_path / "stream"), str(tmp_path / "records")
    arguments = (plans[1], to_merge, "identity", "uint16", stream_uri, records_uri)
    shard = merge_shards.write_shard(*arguments)
    merged: list[str] = []
    merge = merge_shards.merge
    monkeypatch.setattr(
        merge_shards, "merge", lambda plan, *rest: merged.append(plan.name) or merge(plan, *rest)
    )
    assert merge_shards.write_shard(*arguments) == shard
    assert merged == []
    path = tmp_path / "stream" / "train-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\1\1")
    assert merge_shards.write_shard(*arguments) == shard
    assert merged == ["train-00001"] and path.read_bytes() == content


class TwoFiles(NamedTuple):
    """Two files with duplicates in and between them, built with and without dedup."""

    folder: Path
    config: DataConfig
    all_documents: StreamUnderTest
    deduplicated: StreamUnderTest


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> TwoFiles:
    folder = tmp_path_factory.mktemp("duplicates")
    write_jsonl(folder / "a.jsonl", [*TEXTS, TEXTS[3], TEXTS[4]])
    longer = [f"{text} but longer" for text in TEXTS]
    write_jsonl(folder / "b.jsonl", [TEXTS[4], *longer, "short", TEXTS[5]])
    config = config_for_files(folder, str(folder / "*.jsonl"))
    keeping = replace(config, dedup="keep")
    for variant in (keeping, config):
        pipeline.build(variant, "clean", str(folder))
    return TwoFiles(folder, config, clean_stream(folder, keeping), clean_stream(folder, config))


def places(built: StreamUnderTest) -> list[tuple[str, int]]:
    """File and row of each document, in stream order."""
    return [(row["uri"], row["row"]) for row in provenance(built)]


def first_places(built: StreamUnderTest) -> list[tuple[str, int]]:
    """The place of the first document of each text, in stream order."""
    first: dict[tuple[int, ...], tuple[str, int]] = {}
    for place, ids in zip(places(built), documents(built), strict=True):
        first.setdefault(tuple(ids.tolist()), place)
    return list(first.values())


def test_of_equal_texts_the_first_in_the_stream_is_kept(two_files: TwoFiles) -> None:
    before, after = two_files.all_documents, two_files.deduplicated
    assert (before.manifest.n_documents, before.manifest.drops) == (64, {"too_short": 1})
    assert places(after) == first_places(before)
    megatron_shards.verify(after.uri, after.manifest)


def test_dropped_duplicates_are_counted(two_files: TwoFiles) -> None:
    known = two_files.deduplicated.manifest
    assert (known.n_documents, known.drops) == (60, {"exact_duplicate": 4, "too_short": 1})
    assert sum(file.n_documents for file in known.inputs) == 60
    assert sum(file.n_tokens for file in known.inputs) == known.n_tokens


def test_samples_of_dropped_documents_name_their_places(two_files: TwoFiles) -> None:
    lines = Path(two_files.deduplicated.uri, "drops.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    dropped = set(places(two_files.all_documents)) - set(places(two_files.deduplicated))
    dropped_places = {f"{uri}:{row + 1}" for uri, row in dropped}
    assert len(dropped_places) == 4
    # Only the first three of a file are listed.
    unlisted = f"{two_files.folder}/a.jsonl:32"
    listed = {line["place"] for line in samples if line["reason"] == "exact_duplicate"}
    assert listed == dropped_places - {unlisted}
    too_short = f"{two_files.folder}/b.jsonl:32"
    assert [line for line in samples if line["reason"] == "too_short"] == [
        {"reason": "too_short", "place": too_short, "text": "s****"}
    ]


def test_near_duplicates_are_dropped_only_if_configured(tmp_path: Path) -> None:
    pytest.importorskip("rensa", reason="the extra `near` is not installed")
    words = [f"word{i * i}" for i in range(300)]
    texts = [*TEXTS, " ".join(words), " ".join([*words[:150], "changed", *words[151:]])]
    uri = write_jsonl(tmp_path / "a.jsonl", texts)
    config = config_for_files(tmp_path, uri)
    known = pipeline.build(config, "clean", str(tmp_path / "out"))
    assert known.n_documents == len(texts)
    known = pipeline.build(replace(config, dedup="near"), "clean", str(tmp_path / "out"))
    assert known.drops["near_duplicate"] >= 1
    assert known.n_documents + known.drops["near_duplicate"] == len(texts)


def test_documents_that_overlap_with_evaluation_texts_are_dropped(tmp_path: Path) -> None:
    question = "which of the following planets is the one that was named after a god of war"
    texts = [*TEXTS, f"I know this one. {question.upper()}? Mars."]
    uri = write_jsonl(tmp_path / "a.jsonl", texts)
    questions = write_jsonl(tmp_path / "questions.jsonl", [question])
    decontamination = DecontaminationConfig(uris=(questions,))
    config = replace(config_for_files(tmp_path, uri), decontamination=decontamination)
    root = str(tmp_path / "out")
    assert pipeline.build(config, "clean", root).drops == {"evaluation_overlap": 1}
    without = evolve(config, {"decontamination.ngram": 0})
    assert pipeline.build(without, "clean", root).drops == {}


def test_masking_hides_no_copy_of_an_evaluation_text(tmp_path: Path) -> None:
    """A document is compared after it was masked, so the evaluation text is masked, too."""
    question = "who of them reads the letters that people send to jo@example.org each day"
    texts = [*TEXTS, f"Well: {question}"]
    uri = write_jsonl(tmp_path / "a.jsonl", texts)
    questions = write_jsonl(tmp_path / "questions.jsonl", [question])
    decontamination = DecontaminationConfig(uris=(questions,))
    config = replace(config_for_files(tmp_path, uri), decontamination=decontamination)
    for is_masked in (True, False):
        chosen = evolve(config, {"cleaning.mask_personal": is_masked})
        known = pipeline.build(chosen, "clean", str(tmp_path / "out"))
        assert known.drops == {"evaluation_overlap": 1}, is_masked


def test_a_stream_finished_first_by_another_build_is_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for_files(tmp_path, write_jsonl(tmp_path / "a.jsonl", TEXTS))
    root = str(tmp_path / "out")
    tokenize_inputs = pipeline.tokenize_inputs

    def overtaken(job: pipeline.StreamBuild) -> list[tokenize_file.BuildInput]:
        inputs = tokenize_inputs(job)
        monkeypatch.setattr(pipeline, "tokenize_inputs", tokenize_inputs)
        pipeline.build(config, "clean", root)  # finishes, and removes the work in progress
        return inputs

    monkeypatch.setattr(pipeline, "tokenize_inputs", overtaken)
    known = pipeline.build(config, "clean", root)
    assert known == pipeline.build(config, "clean", root)
    assert not list((tmp_path / "out/work").rglob("*.*"))


def test_shards_of_a_larger_corpus_and_killed_writers_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS * 4)]
    config = replace(config_for_files(tmp_path, write_jsonl(path, texts)), shard_tokens=200)
    root = str(tmp_path / "out")
    larger = pipeline.build(config, "clean", root)
    folder = tmp_path / "out" / stream_paths.stream_uri(config, "clean")
    write_jsonl(path, texts[:40])
    (folder / manifest.NAME).unlink()  # what the error says
    (folder / ".train-00001.idx.0f31cfb5").write_bytes(b"of a killed writer")
    (folder / "notes.txt").write_text("not ours")
    smaller = pipeline.build(config, "clean", root)
    assert len(smaller.train) < len(larger.train)
    names = {shard.name for shard in smaller.train + smaller.held_out}
    shard_files = [path for path in folder.iterdir() if re.match(r"\.?(train|held)", path.name)]
    assert {path.name.partition(".")[0] for path in shard_files} == names
    assert len(shard_files) == 3 * len(names) and (folder / "notes.txt").exists()
    (folder / "train-00099.bin").write_bytes(b"left by an earlier version")
    assert pipeline.build(config, "clean", root) == smaller
    assert not (folder / "train-00099.bin").exists()


def test_two_files_with_the_same_bytes_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", TEXTS)
    config = config_for_files(tmp_path, str(tmp_path / "*.jsonl"))
    with pytest.raises(ConfigurationError, match=r"a\.jsonl and .*b\.jsonl have the same bytes"):
        pipeline.build(config, "clean", str(tmp_path / "out"))


def test_a_corpus_without_a_kept_document_is_refused_with_its_drops(tmp_path: Path) -> None:
    uri = write_jsonl(tmp_path / "a.jsonl", [*TEXTS[:3], ""])
    config = replace(
        CONFIG,
        toxic=(uri,),
        tokenizer=given_tokenizer(tmp_path),
        cleaning=CleaningConfig(min_chars=999),
    )
    with pytest.raises(
        ConfigurationError,
        match=r"toxic corpus: no document is left of 4 rows in 1 files.*'empty': 1, 'too_short': 3",
    ):
        pipeline.build(config, "toxic", str(tmp_path / "out"))


def test_unchanged_inputs_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for_files(tmp_path, write_jsonl(tmp_path / "a.jsonl", TEXTS))
    known = pipeline.build(config, "clean", str(tmp_path / "out"))
    monkeypatch.setattr(ranged_reads, "open_stream", lambda *_: pytest.fail("read again"))
    assert pipeline.build(config, "clean", str(tmp_path / "out")) == known


def test_inputs_that_changed_since_the_build_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    config = config_for_files(tmp_path, write_jsonl(path, TEXTS))
    pipeline.build(config, "clean", str(tmp_path / "out"))
    write_jsonl(path, TEXTS[:-1])
    with pytest.raises(
        ConfigurationError,
        match=r"manifest\.json: the inputs changed .*/a\.jsonl had \d,\d+ bytes, and has \d,\d+ "
        r"bytes; restore the files, or delete .*/manifest\.json to build the stream again, or ch",
    ):
        pipeline.build(config, "clean", str(tmp_path / "out"))


def test_a_stream_of_another_tokenizer_or_settings_is_refused(tmp_path: Path) -> None:
    config = config_for_files(tmp_path, write_jsonl(tmp_path / "a.jsonl", TEXTS))
    root = str(tmp_path / "out")
    known = pipeline.build(config, "clean", root)
    uri = storage.join(root, stream_paths.stream_uri(config, "clean"), manifest.NAME)
    for change, message in (
        ({"tokenizer_fingerprint": "0" * 16}, "built with tokenizer 0000000000000000"),
        ({"settings_digest": "0" * 16}, "built with settings 0000000000000000"),
    ):
        storage.save(replace(known, **change), uri)
        with pytest.raises(ConfigurationError, match=message):
            pipeline.build(config, "clean", root)


def test_an_error_of_a_task_keeps_its_type_and_is_not_retried(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("no json\n" * 9)
    config = config_for_files(tmp_path, str(path))
    with pytest.raises(ArtefactCorrupt, match=r"a\.jsonl: .* rows cannot be used") as error:
        pipeline.build(config, "clean", str(tmp_path / "out"))
    assert type(error.value) is ArtefactCorrupt and "Traceback" not in str(error.value)


def test_the_command_prints_a_table_and_the_data_cards(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "data.json"
    storage.save(CONFIG, str(settings))
    flags = ["--config", str(settings), "--out", str(root)]
    assert build_streams.main([*flags, "--stream", "toxic", "--check"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (["toxic"], ["documents", "read", "30"], ["unreadable", "rows", "0"]):
        assert row in printed
    assert ["toxic", "stream:", str(root / stream_paths.stream_uri(CONFIG, "toxic"))] in printed
    assert build_streams.main([*flags, "--card"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["clean", "toxic"] in printed
    assert ["documents", "read", "90", "30"] in printed
    assert ["kept,", "also", "in", "the", "other", "stream", "0", "0"] in printed


def test_the_command_prints_our_errors_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "data.json"
    settings.write_text("{}")
    assert build_streams.main(["--config", str(settings), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not captured.out


def test_a_lost_card_is_made_again_with_the_same_bytes(root: Path) -> None:
    path = root / stream_paths.stream_uri(CONFIG, "clean") / data_card.NAME
    content = path.read_bytes()
    path.unlink()
    pipeline.build(CONFIG, "clean", str(root))
    assert path.read_bytes() == content


def test_windows_of_a_stream_are_its_documents_laid_end_to_end(root: Path) -> None:
    built = clean_stream(root)
    windows = reader.SequenceReader(built.uri, built.manifest, "train", 64)
    eos = built.tokenizer.eos_id
    flat = np.concatenate([np.append(ids, eos) for ids in documents(built, ["train"])])
    read = windows.read(np.arange(windows.n_sequences)).reshape(-1)
    assert np.array_equal(read, flat[: windows.n_sequences * 64])
