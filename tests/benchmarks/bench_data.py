"""gzipped JSON lines to verified shards, against datatrove, Megatron-LM and datasets.map

    python tests/benchmarks/bench_data.py [--corpus FILE.jsonl.gz …] [--tokenizer TOKENIZER.json]
        [--only NAME …] [--workers]

All chains process the same files with the same tokenizer. Each runs in a process of its own with
one worker and one thread; CPU seconds include those of its children. Each runs twice, the first
time on N_FEW documents: "start" is what that took (imports, and a second to read OLMo's tokenizer),
and "MB/CPU-s" is the difference of text / the difference of time, which is the rate of a worker
that continues with its next file. Ours reads, cleans, masks, tokenizes, compares samples with the
reference tokenizer, finds duplicates, shuffles globally, writes shards and reads them back; the
peers read, tokenize and write. The ids of all documents that cleaning does not change must be
equal.

MEGATRON_LM=<checkout> runs Megatron-LM's own tools/preprocess_data.py; without it, the same
structure (a pool, one encode per document, IndexedDatasetBuilder) takes its place. Its
tools/preprocess_data_fast.py, in which one call in Rust tokenizes a file, runs if gigatoken and
awkward are installed as well.
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_peers import EOS, PEERS, Chain

ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
N_FEW = 100
# Documents of the embedded corpus per document here: about 2 kB, as in C4.
N_JOINED = 12
N_DOCUMENTS = 12_000
VOCABULARY = 2048
TOKENIZER_BYTES = 2_000_000
WORKERS_SHARD_TOKENS = 8 << 20  # small, so that there are two shards for two workers
# The paper takes 20.1B tokens of C4; 134.5M posts of 4chan have 49.8 tokens on average.
PAPER_TOKENS = {"C4, 20.1B tokens": 20.1e9, "4chan, 6.7B tokens": 6.7e9}


class Cost(NamedTuple):
    """What a chain's work takes."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


class Corpus(NamedTuple):
    """The texts that all chains process."""

    files: list[str]
    texts: list[str]
    few_file: str

    @property
    def megabytes(self) -> float:
        return sum(len(text.encode()) for text in self.texts) / 1e6

    @property
    def few_megabytes(self) -> float:
        return sum(len(text.encode()) for text in self.texts[:N_FEW]) / 1e6


def main() -> int:
    arguments = _argument_parser().parse_args()
    if arguments.child:
        cost = _run_chain(arguments.child, arguments.corpus, arguments.tokenizer, arguments.out)
        print(json.dumps(cost))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if arguments.corpus:
            files = [str(Path(file).absolute()) for file in arguments.corpus]
        else:
            files = [_write_embedded_corpus(scratch)]
        tokenizer = arguments.tokenizer or _train_tokenizer(files, scratch)
        _compare(files, tokenizer, arguments.only, scratch)
        if arguments.workers:
            _compare_workers(files, tokenizer, scratch)
    return 0


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="FILE",
        help="gzipped JSON lines with a field `text`; default: the embedded corpus",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="JSON file of the library tokenizers; default: trained on the corpus",
    )
    parser.add_argument(
        "--only", nargs="+", choices=CHAINS, default=list(CHAINS), help="run only these chains"
    )
    parser.add_argument(
        "--workers", action="store_true", help="also build with one and with two Ray workers"
    )
    parser.add_argument("--child", choices=CHAINS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser


def _compare(files: list[str], tokenizer: str, names: list[str], scratch: Path) -> None:
    corpus = Corpus(files, list(_texts(files)), str(scratch / "few.jsonl.gz"))
    _write_lines(corpus.few_file, iter(corpus.texts[:N_FEW]))
    print(
        f"gzipped JSON lines to token shards: {len(corpus.texts):,} documents, "
        f"{corpus.megabytes:.0f} MB of text, one worker"
    )
    print(f"{'':24}{'MB/CPU-s':>10}{'CPU-s':>9}{'start':>9}{'wall s':>9}{'peak MiB':>10}  ids")
    rates: dict[str, float] = {}
    reference: list[bytes] = []
    for name in sorted(names, key=lambda name: name == "ours"):  # ours is compared with the others
        missing = [m for m in CHAINS[name].modules if importlib.util.find_spec(m) is None]
        if missing:
            print(f"  {name:22}not installed: {', '.join(missing)} (extra `bench`)")
            continue
        out = scratch / name.replace(" ", "-")
        try:
            start = _measure(name, [corpus.few_file], tokenizer, Path(f"{out}-few"))
            whole = _measure(name, files, tokenizer, out)
        except subprocess.CalledProcessError as error:
            print(f"  {name:22}failed: {error.stderr.strip().splitlines()[-1][:160]}")
            continue
        extra_seconds = whole.cpu_seconds - start.cpu_seconds
        rates[name] = (corpus.megabytes - corpus.few_megabytes) / extra_seconds
        hashes = _hashes(CHAINS[name].documents(out))
        if name == "ours":
            verdict = _compare_ours(hashes, reference, corpus.texts)
        else:
            reference = reference or hashes
            n_equal = sum(a == b for a, b in zip(hashes, reference, strict=True))
            verdict = f"{n_equal:,} of {len(hashes):,} equal"
        print(
            f"  {name:22}{rates[name]:10.1f}{whole.cpu_seconds:9.1f}{start.cpu_seconds:9.1f}"
            f"{whole.wall_seconds:9.1f}{whole.peak_mib:10.0f}  {verdict}",
            flush=True,
        )
    if "ours" in rates:
        _print_summary(rates, corpus, scratch / "ours")


def _hashes(documents: Iterator[bytes]) -> list[bytes]:
    return [hashlib.blake2b(ids, digest_size=8).digest() for ids in documents]


def _compare_ours(hashes: list[bytes], reference: list[bytes], texts: list[str]) -> str:
    """How many documents that cleaning does not change have the peers' ids; it must be all."""
    from data_prep.cleaning import clean_document
    from data_prep.config import CleaningConfig

    config = CleaningConfig()
    unchanged = [
        own
        for own, text in zip(reference, texts, strict=False)
        if clean_document.clean(text, config).text == text
    ]
    known = set(hashes)
    n_equal = sum(own in known for own in unchanged)
    assert n_equal == len(unchanged), "the ids of the chains differ"
    return f"{n_equal:,} of {len(unchanged):,} equal (texts that cleaning does not change)"


def _print_summary(rates: dict[str, float], corpus: Corpus, out: Path) -> None:
    for name, rate in rates.items():
        if name != "ours":
            print(f"  ours / {name:15}{rates['ours'] / rate:10.1f} times")
    n_tokens = sum(len(ids) // 2 + 1 for ids in CHAINS["ours"].documents(out))
    bytes_per_token = corpus.megabytes * 1e6 / n_tokens
    for name, tokens in PAPER_TOKENS.items():
        hours = tokens * bytes_per_token / 1e6 / rates["ours"] / 3600
        print(
            f"  projected: {name:20}{hours:8.1f} CPU-hours at {bytes_per_token:.2f} bytes per token"
        )


def _measure(name: str, files: list[str], tokenizer: str, out: Path) -> Cost:
    """The cost of a chain in a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--tokenizer", tokenizer]
    done = subprocess.run(
        [*command, "--out", str(out), "--corpus", *files],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=True,
    )
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def _run_chain(name: str, files: list[str], tokenizer: str, out: str) -> Cost:
    Path(out).mkdir(parents=True)
    work = CHAINS[name].prepare(files, tokenizer, out)
    before = os.times()
    start = time.perf_counter()
    work()
    after = os.times()
    # User and system time, of this process and of children that have ended.
    cpu_seconds = sum(after[:4]) - sum(before[:4])
    peak_kib = max(_own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return Cost(cpu_seconds, time.perf_counter() - start, peak_kib / 1024)


def _own_peak_kib() -> int:
    """Peak memory; getrusage would include that of the parent when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def _ours(files: list[str], tokenizer: str, out: str) -> Callable[[], None]:
    import pyarrow

    from data_prep.build import pipeline, stream_paths
    from data_prep.core import ray_tasks, storage
    from data_prep.token_stream import megatron_shards

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    config = _config(files, tokenizer)
    # All tasks run in this process.
    ray_tasks.run = lambda tasks, *_: (task.function(*task.arguments) for task in tasks)  # type: ignore[assignment]
    ray_tasks.share = lambda value: value

    def work() -> None:
        manifest = pipeline.build(config, "clean", out)
        stream = storage.join(out, stream_paths.stream_uri(config, "clean"))
        megatron_shards.verify(stream, manifest)

    return work


def _our_documents(out: Path) -> Iterator[bytes]:
    from data_prep.token_stream import manifest, reader

    (record,) = out.glob("streams/*/manifest.json")
    stream = str(record.parent)
    stream_manifest = manifest.load(stream)
    n_documents = stream_manifest.n_documents
    for split in ("train", "held_out"):
        for ids in reader.read_documents(stream, stream_manifest, split, n_documents):
            yield ids.astype("<u2").tobytes()


CHAINS = {"ours": Chain(_ours, _our_documents), **PEERS}


def _compare_workers(files: list[str], tokenizer: str, scratch: Path) -> None:
    """Wall seconds of the same build with one and with two Ray workers."""
    from data_prep.core import ray_session

    for name, value in ray_session.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if len(files) == 1:
        files = _two_variants(files, scratch)
    config = replace(_config(files, tokenizer), shard_tokens=WORKERS_SHARD_TOKENS)
    one_worker = _build_with_workers(1, config, tokenizer, scratch / "workers-1")
    two_workers = _build_with_workers(2, config, tokenizer, scratch / "workers-2")
    alone = _build_in_processes([files], tokenizer, scratch / "alone")
    side_by_side = _build_in_processes([files[0::2], files[1::2]], tokenizer, scratch / "side")
    print(
        f"  {len(files)} files with 1 and 2 Ray workers: {one_worker:.1f} s and "
        f"{two_workers:.1f} s, {one_worker / two_workers:.2f} times as fast"
    )
    print(
        f"  in one process and divided over two: {alone:.1f} s and {side_by_side:.1f} s, "
        f"{alone / side_by_side:.2f} times as fast, which is the limit of this machine"
    )


def _build_with_workers(n_workers: int, config: Any, tokenizer: str, out: Path) -> float:
    import logging

    import ray

    from data_prep.build import pipeline
    from data_prep.core import ray_tasks

    ray.init(
        address="local",
        num_cpus=n_workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    warm_up = ray_tasks.RayTask("warm up", _warm_up, (tokenizer,), 1)
    list(ray_tasks.run([warm_up] * n_workers, "warm up", "tasks"))
    start = time.perf_counter()
    pipeline.build(config, "clean", str(out))
    seconds = time.perf_counter() - start
    ray.shutdown()
    return seconds


def _warm_up(tokenizer: str) -> None:
    """Import once per worker what a build needs."""
    from data_prep.build import pipeline  # noqa: F401

    time.sleep(0.5)  # so that every worker gets one of these tasks


def _build_in_processes(parts: list[list[str]], tokenizer: str, out: Path) -> float:
    """Wall seconds until a process per part has built it, all at the same time."""
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        builds = [
            pool.submit(_measure, "ours", part, tokenizer, Path(f"{out}-{number}"))
            for number, part in enumerate(parts)
        ]
        for build in builds:
            build.result()
    return time.perf_counter() - start


def _two_variants(files: list[str], scratch: Path) -> list[str]:
    """Two files with all texts of the corpus, made distinct by a number after each text."""
    variants = [str(scratch / f"variant-{number}.jsonl.gz") for number in range(2)]
    for number, file in enumerate(variants):
        _write_lines(file, (f"{text}\n{number}" for text in _texts(files)))
    return variants


def _config(files: list[str], tokenizer: str) -> Any:
    from data_prep.config import DataConfig, TokenizerConfig
    from data_prep.token_stream.tokenizer import Tokenizer

    n_ids = Tokenizer(Path(tokenizer).read_text(), EOS, tokenizer).n_ids
    return DataConfig(
        clean=tuple(files),
        toxic=tuple(files),
        tokenizer=TokenizerConfig(source=tokenizer, vocab_size=n_ids),
    )


def _write_embedded_corpus(scratch: Path) -> str:
    from data_prep.sources import corpus_reader

    uri = f"synthetic:clean?documents={N_DOCUMENTS * N_JOINED}"
    (source,) = corpus_reader.expand([uri])
    short = [document.text for document in corpus_reader.read(source)]
    starts = range(0, len(short), N_JOINED)
    file = str(scratch / "corpus.jsonl.gz")
    _write_lines(file, ("\n\n".join(short[start : start + N_JOINED]) for start in starts))
    return file


def _train_tokenizer(files: list[str], scratch: Path) -> str:
    from data_prep.config import TokenizerConfig
    from data_prep.token_stream import tokenizer

    config = TokenizerConfig(source="train", vocab_size=VOCABULARY, train_bytes=TOKENIZER_BYTES)
    path = scratch / "tokenizer.json"
    path.write_text(tokenizer.train(_texts(files), config).json)
    return str(path)


def _texts(files: list[str]) -> Iterator[str]:
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def _write_lines(file: str, texts: Iterator[str]) -> None:
    with gzip.open(file, "wt", compresslevel=3, encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)


if __name__ == "__main__":
    sys.exit(main())
