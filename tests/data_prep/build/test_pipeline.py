import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep import build_streams
from data_prep.build import (
    dedup,
    merge_shards,
    pipeline,
    stream_paths,
    tokenize_file,
    train_tokenizer,
)
from data_prep.config import (
    AnnotationConfig,
    CleaningConfig,
    DataConfig,
    DecontaminationConfig,
    TokenizerConfig,
)
from data_prep.core import ray_tasks, records, storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.settings import evolve
from data_prep.sources import corpus_reader
from data_prep.token_stream import data_card, manifest, megatron_shards, reader, shuffle_key
from data_prep.token_stream.manifest import Manifest
from data_prep.token_stream.tokenizer import Tokenizer

CONFIG = DataConfig(
    clean=("synthetic:clean?documents=90&seed=0&parts=3",),
    toxic=("synthetic:toxic?documents=30&seed=0&parts=2",),
    tokenizer=TokenizerConfig(source="train", vocab_size=400, train_bytes=40_000),
    held_out_ratio=0.2,
    shard_tokens=8_000,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Both streams, built once for the tests that only look."""
    folder = tmp_path_factory.mktemp("root")
    for stream in ("clean", "toxic"):
        pipeline.build(CONFIG, stream, str(folder))
    return folder


def built(root: Path) -> tuple[str, Manifest, Tokenizer]:
    uri = str(root / stream_paths.stream_uri(CONFIG, "clean"))
    return uri, manifest.load(uri), train_tokenizer.build_tokenizer(CONFIG, str(root))


def provenance(uri: str, known: Manifest, split: manifest.Split) -> list[dict]:
    return [
        row
        for shard in known.shards(split)
        for row in pq.read_table(f"{uri}/{shard.name}.documents.parquet").to_pylist()
    ]


def test_every_document_is_in_exactly_one_split_with_its_text_and_its_origin(root: Path) -> None:
    uri, known, engine = built(root)
    megatron_shards.verify(uri, known)
    texts = {
        (s.uri, d.row): d.text
        for s in corpus_reader.expand(CONFIG.clean)
        for d in corpus_reader.read(s)
    }
    found: dict[tuple[str, int], str] = {}
    for split in ("train", "held_out"):
        rows, documents = (
            provenance(uri, known, split),
            reader.read_documents(uri, known, split, 1000),
        )
        assert [row["n_tokens"] for row in rows] == [len(ids) + 1 for ids in documents]
        found |= {
            (row["uri"], row["row"]): engine.decode(ids)
            for row, ids in zip(rows, documents, strict=True)
        }
    assert (
        len(provenance(uri, known, "held_out")) + len(provenance(uri, known, "train"))
        == len(texts)
        == known.n_documents
        == 90
    )
    assert found == texts


def test_the_order_is_that_of_the_keys_over_all_files_and_held_out_keys_lie_below_the_bound(
    root: Path,
) -> None:
    uri, known, _ = built(root)
    held_out, train = provenance(uri, known, "held_out"), provenance(uri, known, "train")
    keys = [row["key"] for row in held_out + train]
    assert keys == sorted(keys)
    assert held_out[-1]["key"] < 0.2 * 2**64 <= train[0]["key"]
    sha256 = {file.uri: file.sha256 for file in known.inputs}
    assert keys == [
        int(shuffle_key.shuffle_keys(sha256[row["uri"]], row["row"], 0, 0))
        for row in held_out + train
    ]
    origins = [row["uri"] for row in train]
    assert sum(a != b for a, b in pairwise(origins)) > len(origins) / 3  # files alternate
    assert len(known.train) > 2 and all(
        shard.n_tokens == CONFIG.shard_tokens for shard in known.train[:-1]
    )
    assert (
        sum(shard.n_continued_tokens > 0 for shard in known.train) > 1
    )  # documents cross the shards' ends


def test_an_annotated_twin_keeps_the_documents_in_their_order_and_leaves_those_held_out_plain(
    root: Path, tmp_path: Path
) -> None:
    annotation = AnnotationConfig(kind="inst", scorer="lexicon:synthetic:lexicon", tagged_ratio=0.5)
    config = replace(CONFIG, annotation=annotation)
    twin, plain = pipeline.build(config, "clean", str(tmp_path)), manifest.load(built(root)[0])
    engine, texts = built(root)[2], {}
    assert (twin.tokenizer_fingerprint, twin.drops) == (engine.fingerprint, plain.drops)
    for name, known, uri in (
        ("twin", twin, str(tmp_path / stream_paths.stream_uri(config, "clean"))),
        ("plain", plain, built(root)[0]),
    ):
        megatron_shards.verify(uri, known)
        for split in ("train", "held_out"):
            order = [(row["uri"], row["row"]) for row in provenance(uri, known, split)]
            documents = [
                engine.decode(ids) for ids in reader.read_documents(uri, known, split, 1000)
            ]
            texts[name, split] = list(zip(order, documents, strict=True))
    assert texts["twin", "held_out"] == texts["plain", "held_out"]
    prefixes = [
        after.removesuffix(before) if at == was else None
        for (at, after), (was, before) in zip(
            texts["twin", "train"], texts["plain", "train"], strict=True
        )
    ]
    calm, rude = "The following text is not toxic.\n", "The following text is toxic.\n"
    assert set(prefixes) == {"", calm, rude}
    assert 20 < sum(map(bool, prefixes)) < 60  # half of 72


def test_an_annotation_that_finds_no_score_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, annotation=AnnotationConfig(kind="meda", scorer="corpus:toxicity"))
    with pytest.raises(ConfigurationError, match="the toxic corpus: no document was annotated"):
        pipeline.build(config, "toxic", str(tmp_path))


def test_the_manifest_counts_what_was_read_and_names_nothing_of_this_machine(root: Path) -> None:
    _, known, engine = built(root)
    assert (
        known.n_tokens
        == known.split_tokens("train") + known.split_tokens("held_out")
        == sum(f.n_tokens for f in known.inputs)
    )
    assert (known.tokenizer_fingerprint, known.vocab_size, known.eos_id, known.dtype) == (
        engine.fingerprint,
        400,
        0,
        "uint16",
    )
    assert [file.uri for file in known.inputs] == [
        source.uri for source in corpus_reader.expand(CONFIG.clean)
    ]
    assert str(root.parent) not in records.to_json(known)
    assert not list((root / "work").rglob("*.*"))


def test_a_build_elsewhere_in_another_cut_of_tasks_gives_the_same_bytes(
    root: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_tasks, "TASKS_PER_CPU", 1)
        for stream in ("toxic", "clean"):
            pipeline.build(CONFIG, stream, str(tmp_path))
    assert tree(tmp_path) == tree(root)


def test_the_bounds_of_segments_batches_buckets_and_hash_ranges_change_no_byte_of_the_stream(
    root: Path, tmp_path: Path
) -> None:
    job = pipeline.prepare(CONFIG, "clean", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenize_file, "BATCH_DOCUMENTS", 2)
        patch.setattr(tokenize_file, "SEGMENT_DOCUMENTS", 5)
        patch.setattr(merge_shards, "BUCKETS_PER_SHARD", 3)
        patch.setattr(dedup, "HASHES_PER_TASK", 20)
        patch.setattr(
            ray_tasks, "run", lambda jobs, *_: (job.function(*job.arguments) for job in jobs)
        )  # in this process
        patch.setattr(ray_tasks, "share", lambda value: value)
        pipeline.run_passes(job)
    made = list((tmp_path / "work").rglob("segment-*.json"))
    assert len(made) >= 15 and len(list((tmp_path / "work").rglob("*-of-00005.parquet"))) == 5
    stream = stream_paths.stream_uri(CONFIG, "clean")
    expected = tree(root / stream)
    del expected[data_card.NAME]  # build() makes it, from what is compared here
    assert tree(tmp_path / stream) == expected


def test_a_build_that_lost_any_of_its_files_gives_the_same_bytes(
    root: Path, tmp_path: Path
) -> None:
    chance = random.Random(0)
    expected = {name: content for name, content in tree(root).items() if "toxic" not in name}
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
        assert tree(folder) == expected


def test_a_finished_shard_is_not_merged_again_and_a_damaged_one_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = pipeline.prepare(CONFIG, "clean", str(tmp_path))
    inputs = pipeline.tokenize_inputs(job)
    duplicates = pipeline.find_duplicates(job, inputs)
    kept = pipeline.count_kept(job, inputs, duplicates)
    buckets = merge_shards.buckets_for(inputs, CONFIG)[0]
    total = sum(of.tokens_per_bucket["train"] for of in kept)
    plan = list(merge_shards.plan_shards(buckets, total, CONFIG.shard_tokens))[1]
    uri = str(tmp_path / "stream")
    arguments = (
        plan,
        merge_shards.segments_to_merge(inputs, duplicates, kept),
        "identity",
        "uint16",
        uri,
        str(tmp_path / "records"),
    )
    first = merge_shards.write_shard(*arguments)
    merged: list[str] = []
    merge = merge_shards.merge
    monkeypatch.setattr(
        merge_shards, "merge", lambda plan, *rest: merged.append(plan.name) or merge(plan, *rest)
    )
    assert merge_shards.write_shard(*arguments) == first and merged == []
    path = Path(uri) / "train-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\1\1")
    assert merge_shards.write_shard(*arguments) == first and merged == ["train-00001"]
    assert path.read_bytes() == content


def jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


TEXTS = [f"the document with the number {i} is a document like any other" for i in range(30)]
FILES = replace(
    CONFIG, tokenizer=TokenizerConfig(source="train", vocab_size=280), held_out_ratio=0.3
)


def test_of_equal_texts_the_first_in_the_stream_stays_and_the_others_are_counted_and_listed(
    tmp_path: Path,
) -> None:
    jsonl(tmp_path / "a.jsonl", [*TEXTS, TEXTS[3], TEXTS[4]])
    jsonl(
        tmp_path / "b.jsonl",
        [TEXTS[4], *(text + " but longer" for text in TEXTS), "short", TEXTS[5]],
    )
    config = replace(
        FILES, clean=(str(tmp_path / "*.jsonl"),), tokenizer=_pinned(tmp_path), dedup="keep"
    )
    out = str(tmp_path / "out")
    rows, kept = {}, pipeline.build(config, "clean", out)
    uri = storage.join(out, stream_paths.stream_uri(config, "clean"))
    for split in ("held_out", "train"):
        documents = reader.read_documents(uri, kept, split, 1000)
        rows |= {
            (Path(r["uri"]).name, r["row"]): d.tolist()
            for r, d in zip(provenance(uri, kept, split), documents, strict=True)
        }
    assert (kept.n_documents, kept.drops) == (64, {"too_short": 1})
    first = {}
    for place, ids in rows.items():  # in the order of the stream
        first.setdefault(tuple(ids), place)

    config = replace(config, dedup="exact")
    known = pipeline.build(config, "clean", out)
    uri = storage.join(out, stream_paths.stream_uri(config, "clean"))
    assert (known.n_documents, known.drops) == (60, {"exact_duplicate": 4, "too_short": 1})
    assert (
        sum(file.n_documents for file in known.inputs) == 60
        and sum(file.n_tokens for file in known.inputs) == known.n_tokens
    )
    megatron_shards.verify(uri, known)
    listed = [
        (Path(r["uri"]).name, r["row"])
        for split in ("held_out", "train")
        for r in provenance(uri, known, split)
    ]
    assert listed == list(first.values())
    noted = [json.loads(line) for line in Path(uri, "drops.jsonl").read_text().splitlines()]
    gone = {f"{tmp_path}/{name}:{row + 1}" for name, row in rows.keys() - set(first.values())}
    assert len(gone) == 4  # at most three of a file are listed
    assert {line["place"] for line in noted if line["reason"] == "exact_duplicate"} == gone - {
        f"{tmp_path}/a.jsonl:32"
    }
    assert [line for line in noted if line["reason"] == "too_short"] == [
        {"reason": "too_short", "place": f"{tmp_path}/b.jsonl:32", "text": "s****"}
    ]


def test_near_duplicates_go_only_if_asked(tmp_path: Path) -> None:
    pytest.importorskip("rensa")
    words = [f"word{i * i}" for i in range(300)]
    texts = [*TEXTS, " ".join(words), " ".join([*words[:150], "changed", *words[151:]])]
    jsonl(tmp_path / "a.jsonl", texts)
    config = replace(
        FILES, clean=(str(tmp_path / "a.jsonl"),), tokenizer=_pinned(tmp_path), dedup="near"
    )
    known = pipeline.build(replace(config, dedup="exact"), "clean", str(tmp_path / "out"))
    assert known.n_documents == len(texts)
    known = pipeline.build(config, "clean", str(tmp_path / "out"))
    assert known.drops["near_duplicate"] >= 1 and known.n_documents + known.drops[
        "near_duplicate"
    ] == len(texts)


def test_documents_that_hold_a_run_of_words_of_an_evaluation_text_are_left_out(
    tmp_path: Path,
) -> None:
    question = "which of the following planets is the one that was named after a god of war"
    uri = jsonl(tmp_path / "a.jsonl", [*TEXTS, f"I know this one. {question.upper()}? Mars."])
    asked = jsonl(tmp_path / "questions.jsonl", [question])
    config = replace(
        FILES,
        clean=(uri,),
        tokenizer=_pinned(tmp_path),
        decontamination=DecontaminationConfig(uris=(asked,)),
    )
    assert pipeline.build(config, "clean", str(tmp_path / "out")).drops == {"evaluation_overlap": 1}
    assert (
        pipeline.build(
            evolve(config, {"decontamination.ngram": 0}), "clean", str(tmp_path / "out")
        ).drops
        == {}
    )


def test_another_build_that_finishes_and_removes_the_units_first_is_our_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = jsonl(tmp_path / "a.jsonl", TEXTS)
    config, out = replace(FILES, clean=(uri,), tokenizer=_pinned(tmp_path)), str(tmp_path / "out")
    tokenize_inputs = pipeline.tokenize_inputs

    def overtaken(*arguments: object) -> list:
        inputs = tokenize_inputs(*arguments)
        monkeypatch.setattr(pipeline, "tokenize_inputs", tokenize_inputs)
        pipeline.build(config, "clean", out)
        return inputs

    monkeypatch.setattr(pipeline, "tokenize_inputs", overtaken)
    known = pipeline.build(config, "clean", out)
    assert known == pipeline.build(config, "clean", out) and not list(
        (tmp_path / "out/work").rglob("*.*")
    )


def test_two_files_with_the_same_bytes_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        jsonl(tmp_path / f"{name}.jsonl", TEXTS)
    config = replace(FILES, clean=(str(tmp_path / "*.jsonl"),))
    with pytest.raises(ConfigurationError, match=r"a\.jsonl and .*b\.jsonl have the same bytes"):
        pipeline.build(config, "clean", str(tmp_path / "out"))


def test_a_corpus_of_which_nothing_is_left_is_refused_with_its_drops(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [*TEXTS[:3], ""])
    config = replace(
        CONFIG, toxic=(str(tmp_path / "a.jsonl"),), cleaning=CleaningConfig(min_chars=999)
    )
    config = replace(config, tokenizer=_pinned(tmp_path))
    with pytest.raises(
        ConfigurationError,
        match=r"toxic corpus: no document is left of 4 rows in 1 files.*'empty': 1, 'too_short': 3",
    ):
        pipeline.build(config, "toxic", str(tmp_path / "out"))


def _pinned(tmp_path: Path) -> TokenizerConfig:
    """A tokenizer file of its own, given by URI and fingerprint."""
    from data_prep.token_stream.tokenizer import save, train

    engine = train(iter(TEXTS), TokenizerConfig(source="train", vocab_size=280))
    save(engine, str(tmp_path / "given.json"))
    return TokenizerConfig(
        source=str(tmp_path / "given.json"), vocab_size=280, fingerprint=engine.fingerprint
    )


def test_inputs_that_changed_since_the_build_are_refused_and_unchanged_ones_are_not_read(
    tmp_path: Path,
) -> None:
    uri = jsonl(tmp_path / "a.jsonl", TEXTS)
    config, out = replace(FILES, clean=(uri,), tokenizer=_pinned(tmp_path)), str(tmp_path / "out")
    known = pipeline.build(config, "clean", out)
    (tmp_path / "a.jsonl").write_bytes(
        b"\xff" * Path(uri).stat().st_size
    )  # same name and size: nobody looks inside
    assert pipeline.build(config, "clean", out) == known
    jsonl(tmp_path / "a.jsonl", TEXTS[:-1])
    with pytest.raises(
        ConfigurationError,
        match=r"manifest\.json: the inputs changed .*/a\.jsonl \(\d,\d+ bytes\); restore",
    ):
        pipeline.build(config, "clean", out)


def test_a_stream_of_another_tokenizer_or_other_settings_is_refused(tmp_path: Path) -> None:
    config, out = (
        replace(FILES, clean=(jsonl(tmp_path / "a.jsonl", TEXTS),), tokenizer=_pinned(tmp_path)),
        str(tmp_path / "out"),
    )
    known = pipeline.build(config, "clean", out)
    uri = storage.join(out, stream_paths.stream_uri(config, "clean"), manifest.NAME)
    for change, message in (
        ({"tokenizer_fingerprint": "0" * 16}, "built with tokenizer 0000000000000000"),
        ({"settings_digest": "0" * 16}, "built with settings 0000000000000000"),
    ):
        storage.save(replace(known, **change), uri)
        with pytest.raises(ConfigurationError, match=message):
            pipeline.build(config, "clean", out)


def test_an_error_of_a_task_arrives_as_itself_and_is_not_retried(tmp_path: Path) -> None:
    uri = tmp_path / "a.jsonl"
    uri.write_text("no json\n" * 9)
    config = replace(FILES, clean=(str(uri),), tokenizer=_pinned(tmp_path))
    with pytest.raises(ArtefactCorrupt, match=r"a\.jsonl: .* rows cannot be used") as error:
        pipeline.build(config, "clean", str(tmp_path / "out"))
    assert type(error.value) is ArtefactCorrupt and "Traceback" not in str(error.value)


def test_a_given_tokenizer_is_copied_below_the_root_and_a_replaced_copy_is_refused(
    tmp_path: Path,
) -> None:
    config, out = replace(FILES, tokenizer=_pinned(tmp_path)), str(tmp_path / "out")
    engine = train_tokenizer.build_tokenizer(config, out)
    copy = Path(out) / stream_paths.tokenizer_uri(config)
    assert copy.read_bytes() == (tmp_path / "given.json").read_bytes()
    (tmp_path / "given.json").unlink()
    assert train_tokenizer.build_tokenizer(config, out).fingerprint == engine.fingerprint
    parsed = json.loads(copy.read_text())
    parsed["model"]["merges"].pop()
    copy.write_text(json.dumps(parsed))
    with pytest.raises(ConfigurationError, match="its fingerprint is"):
        train_tokenizer.build_tokenizer(config, out)


def test_paths_change_with_the_settings_of_their_content_only() -> None:
    def paths(config: DataConfig) -> tuple[str, str, str]:
        return (
            stream_paths.tokenizer_uri(config),
            stream_paths.stream_uri(config, "clean"),
            stream_paths.stream_uri(config, "toxic"),
        )

    base = paths(CONFIG)

    def changed(**changes: object) -> tuple[bool, ...]:
        return tuple(a != b for a, b in zip(base, paths(replace(CONFIG, **changes)), strict=True))

    assert paths(evolve(CONFIG, {"tokenizer.on_difference": "fall_back"})) == base

    assert changed(toxic=("other",)) == (False, False, True)
    assert changed(clean=("other",)) == (
        True,
        True,
        True,
    )  # the trained tokenizer comes from the clean corpus
    assert (
        changed(shuffle_seed=1)
        == changed(held_out_ratio=0.1)
        == changed(shard_tokens=9)
        == (False, True, True)
    )
    assert changed(cleaning=CleaningConfig(min_chars=1)) == (True, True, True)


def test_the_entry_builds_prints_a_table_and_turns_our_errors_into_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "data.json"
    storage.save(CONFIG, str(settings))
    assert (
        build_streams.main(
            ["--config", str(settings), "--out", str(root), "--stream", "toxic", "--check"]
        )
        == 0
    )
    header, _, row = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert header.split()[:3] == ["stream", "documents", "dropped"] and row.split()[:3] == [
        "toxic",
        "30",
        "0",
    ]
    assert build_streams.main(["--config", str(settings), "--out", str(root), "--card"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["clean", "toxic"] in printed and ["documents", "read", "90", "30"] in printed
    settings.write_text("{}")
    assert build_streams.main(["--config", str(settings), "--out", str(root)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and not captured.out


def test_a_card_that_was_lost_is_made_again_with_the_same_bytes(root: Path) -> None:
    path = root / stream_paths.stream_uri(CONFIG, "clean") / data_card.NAME
    content = path.read_bytes()
    path.unlink()
    pipeline.build(CONFIG, "clean", str(root))
    assert path.read_bytes() == content


def test_windows_of_a_built_stream_are_its_documents_laid_end_to_end(root: Path) -> None:
    uri, known, engine = built(root)
    windows = reader.SequenceReader(uri, known, "train", 64)
    flat = np.concatenate(
        [np.append(ids, engine.eos_id) for ids in reader.read_documents(uri, known, "train", 1000)]
    )
    assert np.array_equal(
        windows.read(np.arange(windows.n_sequences)).reshape(-1), flat[: windows.n_sequences * 64]
    )
