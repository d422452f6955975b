"""Names and checksums from a file are checked for form before they touch a path."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_manifest import manifest_of

from data_prep import materialize
from data_prep.build.materialize_mixture import MaterializedMixture
from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError
from data_prep.core.records import from_json, to_json
from data_prep.reshard import ArchiveShard
from data_prep.token_stream import manifest
from data_prep.token_stream.manifest import Manifest, Shard
from data_prep.token_stream.mixture import Mixture
from training.checkpoint.verify_and_prune import Commit
from training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from training.engine.state_layout import RankManifest
from training.run_record import find, load_config, run_uri

SHA = 64 * "a"
BAD_NAMES = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", "a\nb", "a\\b", 300 * "x"]
BAD_PATHS = ["", "..", "a/../../b", "/etc", "a//b", "./a", "a\0", "s3://b/k", "a/"]
BAD_CHECKSUMS = ["", "aa", "/" + 63 * "a", 64 * "A", 63 * "a" + "g", 65 * "a", 64 * "a" + "\n"]


def shard(**fields: Any) -> Shard:
    return Shard(
        **{
            "name": "train-00000",
            "n_tokens": 1,
            "n_documents": 1,
            "n_bytes": 2,
            "block_sha256": (SHA,),
            "idx_sha256": SHA,
            "documents_sha256": SHA,
        }
        | fields
    )


def run_config(**fields: Any) -> RunConfig:
    defaults: dict[str, Any] = {
        "run_id": "run",
        "clean": "streams/clean-1",
        "toxic": "streams/toxic-1",
        "tokenizer": "tokenizer/1/tokenizer.json",
        "toxic_ratio": 0.0,
        "seed": 0,
        "mixture": Mixture(n_clean=2, n_toxic=0, batch_size=2, seed=0),
        "train": TrainConfig(
            model=ModelConfig(d_model=32, n_layers=1, n_heads=2, d_mlp=32, vocab_size=300),
            sequence_length=8,
            global_batch=2,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
    }
    return RunConfig(**defaults | fields)


def commit(**fields: Any) -> Commit:
    defaults: dict[str, Any] = {
        "format_version": 3,
        "run_digest": "r",
        "data_digest": "d",
        "attempt": "5f3c9a12-0",
        "step": 1,
        "optimizer_steps": 1,
        "train_seconds": 1.0,
        "n_bytes": 1,
        "rank_manifests": (SHA,),
        "extra": SHA,
    }
    return Commit(**defaults | fields)


def rank_manifest(name: str = "a-000.safetensors", block: str = SHA) -> str:
    file = {"name": name, "n_bytes": 4, "block_sha256": [block], "slices": []}
    return json.dumps({"rank": 0, "files": [file]})


def archive_shard(name: str = "x-00000.ndjson.zst", sha256: str = SHA) -> str:
    counts = {"file_bytes": 1, "end_bytes": 1, "end_lines": 1, "shard_bytes": 1}
    return json.dumps({"name": name, "sha256": sha256} | counts)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_record_with_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    for cls, text, field in (
        (Manifest, to_json(manifest_of((shard(name=name),))), "train.0.name"),
        (Commit, to_json(commit(attempt=name)), "attempt"),
        (RankManifest, rank_manifest(name), "files.0.name"),
        (ArchiveShard, archive_shard(name), "name"),
        (RunConfig, to_json(run_config(run_id=name)), "run_id"),
    ):
        with pytest.raises(ArtefactCorrupt, match=rf"there\.json.*{field}"):
            from_json(cls, text, "there.json")


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "a/b"])
def test_a_trunk_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ArtefactCorrupt, match="trunk"):
        from_json(RunConfig, to_json(run_config(trunk=name)), "run.json")


@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("field", ["clean", "toxic", "tokenizer"])
def test_a_run_whose_streams_lie_outside_the_root_is_refused(field: str, path: str) -> None:
    with pytest.raises(ArtefactCorrupt, match=field):
        from_json(RunConfig, to_json(run_config(**{field: path})), "run.json")


@pytest.mark.parametrize("sha256", BAD_CHECKSUMS)
def test_a_record_with_a_checksum_that_is_none_is_refused(sha256: str) -> None:
    for cls, text, field in (
        (Manifest, to_json(manifest_of((shard(block_sha256=(sha256,)),))), "train.0.block_sha256"),
        (Manifest, to_json(manifest_of((shard(idx_sha256=sha256),))), "train.0.idx_sha256"),
        (Manifest, to_json(manifest_of((shard(documents_sha256=sha256),))), "documents_sha256"),
        (Commit, to_json(commit(rank_manifests=(sha256,))), "rank_manifests.0"),
        (Commit, to_json(commit(extra=sha256)), "extra"),
        (RankManifest, rank_manifest(block=sha256), "files.0.block_sha256"),
        (ArchiveShard, archive_shard(sha256=sha256), "sha256"),
    ):
        with pytest.raises(ArtefactCorrupt, match=field):
            from_json(cls, text, "there.json")


def test_records_with_ordinary_names_are_read() -> None:
    for value in (manifest_of((shard(),)), commit(), run_config(), run_config(trunk="trunk")):
        assert from_json(type(value), to_json(value), "there.json") == value
    from_json(RankManifest, rank_manifest(), "there.json")
    from_json(ArchiveShard, archive_shard("Pile 2.0 é-00000.ndjson.zst"), "there.json")


def test_a_hostile_manifest_is_refused_before_a_file_is_touched(tmp_path: Path) -> None:
    theirs = tmp_path / "thesis.txt"
    theirs.write_text("mine")
    hostile = manifest_of((shard(block_sha256=(str(theirs),)),))
    storage.save(hostile, str(tmp_path / "stream" / "manifest.json"))
    with pytest.raises(ArtefactCorrupt, match="64 hex digits"):
        manifest.load(str(tmp_path / "stream"))
    assert theirs.read_text() == "mine"


@pytest.mark.parametrize("n_bytes", [storage.BLOCK_BYTES + 1, 0, -1])
def test_a_shard_needs_a_checksum_for_each_of_its_blocks(tmp_path: Path, n_bytes: int) -> None:
    storage.save(manifest_of((shard(n_bytes=n_bytes),)), str(tmp_path / "manifest.json"))
    with pytest.raises(ArtefactCorrupt, match="n_bytes"):
        manifest.load(str(tmp_path))


@pytest.mark.parametrize("run_id", ["", "..", "../other", "/etc", "a/b", "a\0b"])
def test_a_run_id_that_leaves_the_folder_of_runs_is_refused(run_id: str, tmp_path: Path) -> None:
    for use in (run_uri, load_config, find):
        with pytest.raises(ConfigurationError, match="run"):
            use(str(tmp_path), run_id)


def test_a_planned_run_under_another_runs_name_is_refused(tmp_path: Path) -> None:
    storage.save(run_config(run_id="b"), str(tmp_path / "runs/a/run.json"))
    with pytest.raises(ArtefactCorrupt, match=r"run\.json.*'b'.*'a'"):
        load_config(str(tmp_path), "a")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", to_json(run_config(clean="../../secret")), to_json(run_config(toxic="/etc"))],
)
def test_materialize_refuses_a_damaged_or_hostile_run(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write(str(tmp_path / "runs/r/run.json"), text.encode())
    assert materialize.main(["--out", str(tmp_path), "--run", "r"]) == 2
    printed = capsys.readouterr().err
    assert "run.json" in printed and printed.startswith("error: ") and printed.count("\n") == 1


@pytest.mark.parametrize("run_id", ["..", "../x", "/etc"])
def test_materialize_refuses_a_run_id_with_a_path(
    run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert materialize.main(["--out", str(tmp_path), "--run", run_id]) == 2
    assert "run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_materialized_shard_is_checked_like_a_streams() -> None:
    assert MaterializedMixture.__annotations__["train"] == tuple[Shard, ...]


def test_deleting_below_a_folder_follows_no_link_out_of_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("mine")
    work = tmp_path / "root" / "work"
    (work / "own").mkdir(parents=True)
    (work / "own" / "part").write_text("ours")
    (work / "evil").symlink_to(home)
    (work / "link.txt").symlink_to(home / "thesis.txt")
    storage.delete_below(str(work), storage.list_files(str(work)))
    assert (home / "thesis.txt").read_text() == "mine"
    assert not (work / "own").exists() and not (work / "link.txt").is_symlink()
