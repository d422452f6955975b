"""The chains that bench_data.py measures ours beside: datatrove, Megatron-LM's tools or their
structure, and datasets.map.

Each has what it imports, its work, and the ids of its documents without eos, uint16, in the order
of its output.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isal import igzip

EOS = "<|endoftext|>"


class Chain:
    """A way from files to tokens."""

    def __init__(
        self, prepare: Any, documents: Callable[[Path], Iterator[bytes]], *modules: str
    ) -> None:
        self.prepare, self.documents, self.modules = prepare, documents, modules


def _datatrove(corpus: list[str], words: str, out: str) -> Callable[[], None]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.remove()
    Path(out, "input").mkdir()
    for number, file in enumerate(corpus):
        Path(out, "input", f"{number:05}.jsonl.gz").symlink_to(file)
    pipeline = [
        JsonlReader(f"{out}/input"),
        DocumentTokenizer(
            f"{out}/tokens", words, eos_token=EOS, shuffle_documents=False, save_filename="all"
        ),
    ]
    return LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=f"{out}/logs").run


def _datatrove_documents(out: Path) -> Iterator[bytes]:
    import numpy as np

    for file in sorted((out / "tokens").glob("*.ds")):
        tokens, ends = (
            np.fromfile(file, "<u2"),
            np.fromfile(f"{file}.index", "<u8").astype(np.int64),
        )
        yield from (piece[:-1].tobytes() for piece in np.split(tokens, ends[:-1]))


def _megatron(corpus: list[str], words: str, out: str) -> Callable[[], None]:
    checkout = os.environ.get("MEGATRON_LM")
    if checkout:
        return _megatron_tool(checkout, corpus, words, out)
    import multiprocessing

    import numpy as np
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    def work() -> None:
        builder = IndexedDatasetBuilder(f"{out}/all.bin", dtype=np.uint16)
        for file in corpus:
            with (
                multiprocessing.Pool(1, _begin_encoder, (words,)) as pool,
                gzip.open(file, "rt", encoding="utf-8") as lines,
            ):
                for ids in pool.imap(_encode_line, lines, 32):
                    builder.add_document(torch.IntTensor(ids), [len(ids)])
                pool.close()
                pool.join()
        builder.finalize(f"{out}/all.idx")

    return work


def _megatron_tool(checkout: str, corpus: list[str], words: str, out: str) -> Callable[[], None]:
    return _on_plain_lines(
        [*_tool(checkout, "preprocess_data.py", words, out), "--workers", "1"], corpus, out
    )


def _megatron_gigatoken(corpus: list[str], words: str, out: str) -> Callable[[], None]:
    checkout = os.environ.get("MEGATRON_LM") or sys.exit(
        "MEGATRON_LM=<a checkout of Megatron-LM> has the tool"
    )
    return _on_plain_lines(
        [*_tool(checkout, "preprocess_data_fast.py", words, out), "--use-gigatoken"], corpus, out
    )


def _on_plain_lines(tool: list[str], corpus: list[str], out: str) -> Callable[[], None]:
    """One call a file. Megatron's tools read no gzip (the first waits for ever), so that is undone
    before.
    """

    def work() -> None:
        for number, file in enumerate(corpus):
            plain = Path(out, f"{number:05}.jsonl")
            with igzip.open(file) as packed, plain.open("wb") as lines:
                shutil.copyfileobj(packed, lines, 1 << 20)
            paths = ["--input", str(plain), "--output-prefix", f"{out}/{number:05}"]
            subprocess.run([*tool, *paths], check=True, stdout=sys.stderr)

    return work


def _tool(checkout: str, name: str, words: str, out: str) -> list[str]:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_file=words, eos_token=EOS).save_pretrained(f"{out}/tokenizer")
    chosen = [
        "--tokenizer-type",
        "HuggingFaceTokenizer",
        "--tokenizer-model",
        f"{out}/tokenizer",
        "--append-eod",
    ]
    return [sys.executable, f"{checkout}/tools/{name}", *chosen]


def _begin_encoder(words: str) -> None:
    global _encoder
    from tokenizers import Tokenizer

    _encoder = Tokenizer.from_file(words)


def _encode_line(line: str) -> list[int]:
    return [*_encoder.encode(json.loads(line)["text"]).ids, _encoder.token_to_id(EOS)]


def _megatron_documents(out: Path) -> Iterator[bytes]:
    import numpy as np

    from data_prep.token_stream import megatron_shards

    for file in sorted(out.glob("*.idx")):
        index = megatron_shards.decode_index(file.read_bytes(), str(file))
        tokens = np.fromfile(file.with_suffix(".bin"), index.dtype).astype("<u2")
        yield from (
            piece[:-1].tobytes() for piece in np.split(tokens, np.cumsum(index.lengths)[:-1])
        )


def _datasets(corpus: list[str], words: str, out: str) -> Callable[[], None]:
    import datasets
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(words)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [encoding.ids for encoding in encoder.encode_batch(batch["text"])]}

    def work() -> None:
        rows = datasets.load_dataset(
            "json", data_files=corpus, split="train", cache_dir=f"{out}/cache"
        )
        rows.map(encode, batched=True, remove_columns=rows.column_names).save_to_disk(
            f"{out}/mapped"
        )

    return work


def _datasets_documents(out: Path) -> Iterator[bytes]:
    import datasets
    import numpy as np

    for row in datasets.load_from_disk(str(out / "mapped")):
        yield np.array(row["ids"], "<u2").tobytes()


PEERS = {
    "datatrove": Chain(_datatrove, _datatrove_documents, "datatrove"),
    "Megatron preprocess": Chain(_megatron, _megatron_documents, "megatron"),
    "Megatron gigatoken": Chain(_megatron_gigatoken, _megatron_documents, "gigatoken", "awkward"),
    "datasets.map": Chain(_datasets, _datasets_documents, "datasets"),
}
