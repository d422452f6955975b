"""The chain from gzipped JSON lines to tokens, ours beside the usual one: gzip, json and Hugging Face tokenizers.

Same file, same tokenizer, one process with one thread each, seconds of CPU; the ids must be equal.
"""

import gzip
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from tokenizers import Tokenizer as Reference

from data_prep import corpora, tokenizer, units
from data_prep.config import DataConfig, TokenizerConfig

N_DOCUMENTS = 30_000


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "corpus.jsonl.gz")
        (source,) = corpora.expand([f"synthetic:clean?documents={N_DOCUMENTS}"])
        texts = [document.text for document in corpora.read(source)]
        with gzip.open(path, "wt", compresslevel=3) as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        config = DataConfig(clean=(str(path),), toxic=(str(path),), tokenizer=TokenizerConfig(source="train", vocab_size=2048))
        engine = tokenizer.train(iter(texts[:3000]), config.tokenizer)
        megabytes = sum(len(text.encode()) for text in texts) / 1e6

        ours, kept = _cpu_seconds(lambda: _ours(path, engine, config, scratch))
        peer, flat = _cpu_seconds(lambda: _peer(path, engine))
        assert np.array_equal(np.sort(kept), np.sort(flat)), "the two chains made other ids"
    print(f"tokens from gzipped JSON lines, {megabytes:.0f} MB of text, one core")
    print(f"  ours (read, clean, tokenize, check, sort, publish)   {megabytes / ours:7.1f} MB/CPU-s")
    print(f"  gzip + json + tokenizers (read, tokenize)            {megabytes / peer:7.1f} MB/CPU-s")
    print(f"  ratio                                                {peer / ours:7.1f}")


def _ours(path: Path, engine: tokenizer.Tokenizer, config: DataConfig, scratch: str) -> np.ndarray:
    (source,) = corpora.expand([str(path)])
    uri = str(Path(scratch, "unit"))
    unit = units.make(source, corpora.checksum(source), engine, config, uri)
    ids = np.fromfile(Path(uri, "tokens.bin"), np.dtype(unit.dtype))
    return ids[ids != engine.eos_id]


def _peer(path: Path, engine: tokenizer.Tokenizer) -> np.ndarray:
    reference = Reference.from_str(engine.json)
    ids: list[int] = []
    batch: list[str] = []
    with gzip.open(path, "rt") as file:
        for line in file:
            batch.append(json.loads(line)["text"])
            if len(batch) == 1000:
                ids += [i for encoding in reference.encode_batch_fast(batch) for i in encoding.ids]
                batch = []
    ids += [i for encoding in reference.encode_batch_fast(batch) for i in encoding.ids]
    return np.array(ids, np.uint16)


def _cpu_seconds(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
