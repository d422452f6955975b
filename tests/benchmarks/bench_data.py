"""The whole chain from gzipped JSON lines to verified shards, beside datatrove, Megatron-LM's
preprocessing and datasets.map.

    python tests/benchmarks/bench_data.py [--corpus FILE.jsonl.gz …] [--tokenizer TOKENIZER.json]
    [--only NAME …] [--workers]

Same files, same tokenizer, same run. Each chain does its work in a process of its own, one worker,
one thread; CPU seconds are those of that process and its children. Each does it twice, the second
time on the first FEW documents: "start" is what that took (imports, a second for reading OLMo's
tokenizer), "MB/CPU-s" the difference of text over the difference of time: the rate of a worker that
goes on to its next file. Ours reads, cleans, masks, tokenizes, checks samples against the
reference, looks for duplicates, shuffles globally, writes shards and reads them back; the others
read, tokenize and write. The ids of all documents that cleaning leaves as they are must be equal.
MEGATRON_LM=<checkout> runs its own tools/preprocess_data.py; without it the same structure (a pool,
one encode a document, IndexedDatasetBuilder) stands for it. Its tools/preprocess_data_fast.py runs
where gigatoken and awkward are installed too: one call tokenizes a file, in Rust.
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
from typing import Any

from data_peers import EOS, PEERS, Chain

ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
FEW = 100
JOINED = 12  # documents of the embedded corpus to one of the benchmark's: about 2 kB, as in C4
N_JOINED = 12_000
VOCABULARY = 2048
WORKERS_SHARD_TOKENS = 8 << 20
C4_TOKENS, CHAN_TOKENS = 20.1e9, 6.7e9  # what the paper takes of C4; 134.5M posts of 49.8 tokens


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus",
        nargs="+",
        metavar="FILE",
        help="gzipped JSON lines with a field text; default: embedded",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a tokenizers JSON; default: trained on the corpus"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CHAINS, default=list(CHAINS), help="these chains"
    )
    parser.add_argument(
        "--workers",
        action="store_true",
        help="also build with one and with two Ray workers, by the clock",
    )
    parser.add_argument("--child", choices=CHAINS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return _child(asked.child, asked.corpus, asked.tokenizer, asked.out)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = (
            [str(Path(file).absolute()) for file in asked.corpus]
            if asked.corpus
            else _embedded(scratch)
        )
        words = asked.tokenizer or _trained(corpus, scratch)
        _compare(corpus, words, asked.only, Path(scratch))
        if asked.workers:
            _two_workers(corpus, words, Path(scratch))
    return 0


def _compare(corpus: list[str], words: str, names: list[str], scratch: Path) -> None:
    from data_prep.cleaning import clean_document
    from data_prep.config import CleaningConfig

    texts = list(_texts(corpus))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    as_they_are = [clean_document.clean(text, CleaningConfig()).text == text for text in texts]
    few = str(scratch / "few.jsonl.gz")
    _write(few, iter(texts[:FEW]))
    few_megabytes = sum(len(text.encode()) for text in texts[:FEW]) / 1e6
    print(
        f"gzipped JSON lines to token shards: {len(texts):,} documents, {megabytes:.0f} MB of text, one worker"
    )
    print(f"{'':24}{'MB/CPU-s':>10}{'CPU-s':>9}{'start':>9}{'wall s':>9}{'peak MiB':>10}  ids")
    rates, hashes = dict[str, float](), list[bytes]()
    for name in sorted(
        names, key=lambda name: name == "ours"
    ):  # ours last: it is compared with the others
        missing = [
            module for module in CHAINS[name].modules if importlib.util.find_spec(module) is None
        ]
        if missing:
            print(
                f"  {name:22}not installed here: {', '.join(missing)} (pip install 'hormesis[bench]')"
            )
            continue
        out = scratch / name.replace(" ", "-")
        try:
            start, measured = (
                _measured(name, [few], words, Path(f"{out}-few")),
                _measured(name, corpus, words, out),
            )
        except subprocess.CalledProcessError as error:
            print(f"  {name:22}failed: {error.stderr.strip().splitlines()[-1][:160]}")
            continue
        rates[name] = (megabytes - few_megabytes) / (measured["cpu_s"] - start["cpu_s"])
        found = [
            hashlib.blake2b(ids, digest_size=8).digest() for ids in CHAINS[name].documents(out)
        ]
        if name != "ours":
            hashes = hashes or found
            verdict = f"{sum(a == b for a, b in zip(found, hashes, strict=True)):,} of {len(texts):,} equal"
        else:
            wanted = (
                [one for one, same in zip(hashes, as_they_are, strict=True) if same]
                if hashes
                else []
            )
            n_equal = sum(one in kept for kept in [set(found)] for one in wanted)
            verdict = (
                f"{n_equal:,} of {len(wanted):,} equal (texts that cleaning leaves as they are)"
            )
            assert n_equal == len(wanted), "the chains made other ids"
        numbers = f"{rates[name]:10.1f}{measured['cpu_s']:9.1f}{start['cpu_s']:9.1f}"
        numbers += f"{measured['wall_s']:9.1f}{measured['peak_mib']:10.0f}"
        print(f"  {name:22}{numbers}  {verdict}", flush=True)
    if "ours" in rates:
        for name, rate in rates.items():
            if name != "ours":
                print(f"  ours / {name:15}{rates['ours'] / rate:10.1f} times")
        n_tokens = sum(len(ids) // 2 + 1 for ids in CHAINS["ours"].documents(scratch / "ours"))
        bytes_per_token = megabytes * 1e6 / n_tokens
        for what, tokens in (("C4, 20.1B tokens", C4_TOKENS), ("4chan, 6.7B tokens", CHAN_TOKENS)):
            hours = tokens * bytes_per_token / 1e6 / rates["ours"] / 3600
            print(
                f"  projected: {what:20}{hours:8.1f} CPU-hours at this corpus's {bytes_per_token:.2f} bytes a token"
            )


def _measured(name: str, corpus: list[str], words: str, out: Path) -> dict[str, float]:
    """What `_child` prints, from a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        "--tokenizer",
        words,
        "--out",
        str(out),
        "--corpus",
        *corpus,
    ]
    done = subprocess.run(
        command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _child(name: str, corpus: list[str], words: str, out: str) -> int:
    """Do one chain's work and print what it took."""
    Path(out).mkdir(parents=True)
    work = CHAINS[name].prepare(corpus, words, out)
    before, start = os.times(), time.perf_counter()
    work()
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])  # user and system, own and of children that have ended
    peak = max(_own_peak_kib(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(
        json.dumps({"cpu_s": cpu, "wall_s": time.perf_counter() - start, "peak_mib": peak / 1024})
    )
    return 0


def _own_peak_kib() -> int:
    """Not getrusage's: that one keeps what the parent held when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


# Our chain, in the manner of its peers (data_peers.py).


def _ours(corpus: list[str], words: str, out: str) -> Callable[[], None]:
    import pyarrow

    from data_prep.build import pipeline, stream_paths
    from data_prep.core import ray_tasks, storage
    from data_prep.token_stream import megatron_shards

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    config = _config(corpus, words)
    ray_tasks.run = lambda tasks, *_: (task.function(*task.arguments) for task in tasks)  # type: ignore[assignment]  # in this process
    ray_tasks.share = lambda value: value

    def work() -> None:
        known = pipeline.build(config, "clean", out)
        megatron_shards.verify(storage.join(out, stream_paths.stream_uri(config, "clean")), known)

    return work


def _our_documents(out: Path) -> Iterator[bytes]:
    from data_prep.token_stream import manifest, reader

    (record,) = out.glob("streams/*/manifest.json")
    known = manifest.load(str(record.parent))
    for split in ("train", "held_out"):
        for ids in reader.read_documents(str(record.parent), known, split, known.n_documents):
            yield ids.astype("<u2").tobytes()


CHAINS = {"ours": Chain(_ours, _our_documents), **PEERS}


def _two_workers(corpus: list[str], words: str, scratch: Path) -> None:
    """The same build with one and with two Ray workers, by the clock; shards are small, so that
    there are two at a time.
    """
    from data_prep.build import pipeline
    from data_prep.core import ray_tasks

    for name, value in ray_tasks.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    files = corpus if len(corpus) > 1 else _told_apart(corpus, scratch)
    config = replace(_config(files, words), shard_tokens=WORKERS_SHARD_TOKENS)
    seconds = []
    for n in (1, 2):
        ray.init(
            address="local",
            num_cpus=n,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
        )
        list(
            ray_tasks.run(
                [ray_tasks.RayTask("warm up", _warm_up, (words,), 1)] * n, "warm up", "jobs"
            )
        )
        start = time.perf_counter()
        pipeline.build(config, "clean", str(scratch / f"workers-{n}"))
        seconds.append(time.perf_counter() - start)
        ray.shutdown()
    alone = _clocked([files], words, scratch / "alone")
    side_by_side = _clocked([files[0::2], files[1::2]], words, scratch / "side")
    one, two = seconds
    print(
        f"  {len(files)} files with 1 and 2 Ray workers: {one:.1f} s and {two:.1f} s, {one / two:.2f} times"
    )
    print(
        f"  in one bare process and divided over two: {alone:.1f} s and {side_by_side:.1f} s, ",
        end="",
    )
    print(f"{alone / side_by_side:.2f} times: what this machine has to give")


def _told_apart(corpus: list[str], scratch: Path) -> list[str]:
    """Two files, each the corpus with a number after every text."""
    files = [str(scratch / f"half-{number}.jsonl.gz") for number in range(2)]
    for number, file in enumerate(files):
        _write(file, (f"{text}\n{number}" for text in _texts(corpus)))
    return files


def _clocked(parts: list[list[str]], words: str, out: Path) -> float:
    """Seconds until a process for each part has built it, all at once."""
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda at: _measured("ours", parts[at], words, Path(f"{out}-{at}")),
                range(len(parts)),
            )
        )
    return time.perf_counter() - start


def _warm_up(words: str) -> None:
    from data_prep.build import pipeline  # noqa: F401  # what each worker imports once

    time.sleep(0.5)  # so that every worker gets one


def _config(corpus: list[str], words: str) -> Any:
    from data_prep.config import DataConfig, TokenizerConfig
    from data_prep.token_stream.tokenizer import Tokenizer

    n_ids = Tokenizer(Path(words).read_text(), EOS, words).n_ids
    return DataConfig(
        clean=tuple(corpus),
        toxic=tuple(corpus),
        tokenizer=TokenizerConfig(source=words, vocab_size=n_ids),
    )


def _embedded(scratch: str) -> list[str]:
    from data_prep.sources import corpus_reader

    (source,) = corpus_reader.expand([f"synthetic:clean?documents={N_JOINED * JOINED}"])
    short = [document.text for document in corpus_reader.read(source)]
    file = str(Path(scratch, "corpus.jsonl.gz"))
    _write(file, ("\n\n".join(short[at : at + JOINED]) for at in range(0, len(short), JOINED)))
    return [file]


def _trained(corpus: list[str], scratch: str) -> str:
    from data_prep.config import TokenizerConfig
    from data_prep.token_stream import tokenizer

    engine = tokenizer.train(
        _texts(corpus),
        TokenizerConfig(source="train", vocab_size=VOCABULARY, train_bytes=2_000_000),
    )
    path = Path(scratch, "tokenizer.json")
    path.write_text(engine.json)
    return str(path)


def _texts(corpus: list[str]) -> Iterator[str]:
    for file in corpus:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def _write(file: str, texts: Iterator[str]) -> None:
    with gzip.open(file, "wt", compresslevel=3, encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in texts)


if __name__ == "__main__":
    sys.exit(main())
