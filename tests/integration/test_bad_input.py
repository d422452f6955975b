"""wrong input on the command line ends with one clear line, exit code 2 and no results"""

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeps import ROOT, TINY, environment, sweep

from launch import experiment


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert that the command failed with one line with all the words, and without a traceback."""
    message = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    assert done.returncode == 2 and message.startswith("error: "), (
        done.stdout[-2000:] + done.stderr[-4000:]
    )
    assert "Traceback" not in done.stderr
    assert not [word for word in words if word not in message], message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recipe", "lapdog"], ["lapdog", "laptop"]),
        (["--ratios", "1.0"], ["1.0", "ratio"]),
        (["--ratios", "-0.1"], ["-0.1", "ratio"]),
        (["--set", "train.learning_rat=1"], ["train.learning_rat", "learning_rate"]),
        (["--set", "train.global_batch=many"], ["train.global_batch=many", "whole number"]),
        (["--set", "train.sequence_length=4096"], ["4096", "128"]),
        (["--set", "n_ranks=64"], ["64 data-parallel ranks", "8"]),
        (["--device", "abacus", "--plan"], ["abacus", "H100"]),
    ],
)
def test_an_impossible_setting_is_refused_before_anything_starts(flags, words, tmp_path):
    refused(sweep(str(tmp_path / "out"), *flags), *words)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_not_writable_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(sweep(str(tmp_path / "file" / "out"), *TINY), "cannot write", str(tmp_path / "file"))


def test_a_store_that_does_not_respond_is_named(free_port):
    done = sweep(
        "s3://bucket/prefix",
        *TINY,
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}",
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
        AWS_MAX_ATTEMPTS="1",
    )
    refused(done, "s3://bucket/prefix", "AWS_ENDPOINT_URL")


def rows(path: Path, *values: object) -> str:
    path.write_text(
        "".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values)
    )
    return str(path)


GOOD = [
    {"text": f"The harbour master counted {n} boats before the fog came in again."}
    for n in range(200)
]


def clean_corpus(flags: list[str], clean: str) -> list[str]:
    position = flags.index("--clean")
    return [*flags[:position], "--clean", clean, *flags[position + 2 :]]


@pytest.mark.parametrize(
    ("setting", "row", "words"),
    [
        (
            'eval.probes={"pairs": "ROWS"}',
            {"label": -1},
            ["40 of 40 rows left out (negative label 40)"],
        ),
        (
            'eval.benchmarks={"arc": "cloze:ROWS"}',
            {"choices": ["a", ""], "answer": 0},
            ["eval.benchmarks.arc", "an empty choice 40"],
        ),
    ],
)
def test_evaluation_texts_are_checked_before_anything_is_built(setting, row, words, tmp_path):
    uri = rows(tmp_path / "rows.jsonl", *({"text": f"text {i}"} | row for i in range(40)))
    done = sweep(str(tmp_path / "out"), *TINY, "--set", setting.replace("ROWS", uri))
    refused(done, *words)
    assert not (tmp_path / "out" / "streams").exists()


def test_a_missing_corpus_is_refused(tmp_path):
    done = sweep(
        str(tmp_path / "out"),
        *clean_corpus(TINY, str(tmp_path / "none" / "*.jsonl")),
        "--only",
        "data",
    )
    refused(done, "none/*.jsonl")


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("empty.jsonl", lambda path: path.write_bytes(b""), ["empty.jsonl", "empty"]),
        (
            "torn.jsonl.gz",
            lambda path: path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 5000)[:60]),
            ["torn.jsonl.gz"],
        ),
        (
            "fake.jsonl.gz",
            lambda path: path.write_bytes(b"this is not gzip at all"),
            ["fake.jsonl.gz"],
        ),
        (
            "broken.jsonl",
            lambda path: rows(path, *GOOD, *["{not json"] * 20),
            ["broken.jsonl", "0.01"],
        ),
        (
            "field.jsonl",
            lambda path: rows(path, *({"body": row["text"]} for row in GOOD)),
            ["'text'", "body", "#text="],
        ),
    ],
)
def test_an_unreadable_corpus_is_refused_by_name(name, make, words, tmp_path, ray_address):
    make(tmp_path / name)
    flags = clean_corpus(TINY, str(tmp_path / name))
    refused(sweep(str(tmp_path / "out"), *flags, "--only", "data", **ray_address), *words)
    assert not list((tmp_path / "out").glob("streams/clean-*/manifest.json"))


def test_a_few_broken_lines_are_counted_and_skipped(tmp_path, ray_address):
    corpus = rows(tmp_path / "mostly.jsonl", *GOOD * 3, "{not json")
    done = sweep(
        str(tmp_path / "out"),
        *clean_corpus(TINY, corpus),
        "--only",
        "data",
        "--set",
        "budget_tokens=2000",
        **ray_address,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (manifest,) = (tmp_path / "out").glob("streams/clean-*/manifest.json")
    assert [entry["n_bad_rows"] for entry in json.loads(manifest.read_text())["inputs"]] == [1]


def test_too_little_toxic_text_is_refused_with_the_numbers(tmp_path, ray_address):
    done = sweep(str(tmp_path / "out"), *TINY, "--ratios", "0.99", "--only", "data", **ray_address)
    refused(done, "toxic stream holds", "tokens short")


def test_sequences_longer_than_the_corpus_are_refused(tmp_path, ray_address):
    corpus = rows(tmp_path / "short.jsonl", *GOOD[:3])
    done = sweep(
        str(tmp_path / "out"),
        *clean_corpus(TINY, corpus),
        "--only",
        "data",
        "--set",
        "data.tokenizer.vocab_size=300",
        **ray_address,
    )
    refused(done, "clean stream holds", "tokens short")


def test_a_store_that_refuses_the_credentials_is_named(refusing_store):
    done = sweep(
        "s3://bucket/prefix",
        *TINY,
        AWS_ENDPOINT_URL=refusing_store,
        AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
    )
    refused(done, "s3://bucket/prefix", "AWS_SECRET_ACCESS_KEY")


def flip(path: Path) -> None:
    """Change the file's middle byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda root, run: flip(next(root.glob("streams/clean-*/train-00000.bin"))),
            ["train-00000.bin", "block 0", "sha256"],
        ),
        (
            lambda root, run: flip(next(run.glob("checkpoints/*/*-000.safetensors"))),
            ["checkpoints", "verifies"],
        ),
        (
            lambda root, run: edit(
                next(root.glob("streams/toxic-*/manifest.json")), tokenizer_fingerprint="other"
            ),
            ["tokenizer", "other"],
        ),
        (
            lambda root, run: edit(
                next(root.glob("streams/toxic-*/manifest.json")), format_version=99
            ),
            ["manifest.json", "99"],
        ),
        (
            lambda root, run: next(root.glob("streams/toxic-*/manifest.json")).unlink(),
            ["manifest.json", "--only data"],
        ),
    ],
    ids=["damaged shard", "damaged checkpoint", "another tokenizer", "another format", "no stream"],
)
def test_a_run_does_not_train_on_data_that_differ_from_its_records(
    damage: Callable, words: list[str], finished_sweep: str, tmp_path: Path
):
    root = tmp_path / "out"
    run = experiment.load(finished_sweep).runs()[1]
    shutil.copytree(
        finished_sweep, root, ignore=shutil.ignore_patterns("report", "eval-*", "record.json")
    )
    if "block 0" in words:
        shutil.rmtree(root / "runs" / run.run_id / "checkpoints")
    damage(root, root / "runs" / run.run_id)
    command = [sys.executable, "training/pretrain.py", "--out", str(root), "--run", run.run_id]
    refused(
        subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
        ),
        *words,
    )
    assert not (root / "runs" / run.run_id / "record.json").exists()
