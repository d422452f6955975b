"""peer chains of bench_data.py: datatrove, tools of Megatron-LM, datasets.map

Each chain names the modules that it imports, its work, and the ids of its documents without the
end-of-document id, as uint16, in the order of its output.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from isal import igzip

EOS = "<|endoftext|>"

Work = Callable[[], Any]


class Chain(NamedTuple):
    """A way from files to tokens."""

    prepare: Callable[[list[str], str, str], Work]
    """Prepares the work of (corpus files, tokenizer file, output folder)."""
    documents: Callable[[Path], Iterator[bytes]]
    """The ids per document in an output folder."""
    modules: tuple[str, ...] = ()
    """Modules that must be installed."""


def _datatrove(corpus: list[str], tokenizer: str, out: str) -> Work:
    from datatrove.executor import (  # pyright: ignore[reportMissingImports]
        LocalPipelineExecutor,
    )
    from datatrove.pipeline.readers import JsonlReader  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.tokens import (  # pyright: ignore[reportMissingImports]
        DocumentTokenizer,
    )
    from loguru import logger  # pyright: ignore[reportMissingImports]

    logger.remove()
    Path(out, "input").mkdir()
    for number, file in enumerate(corpus):
        Path(out, "input", f"{number:05}.jsonl.gz").symlink_to(file)
    tokenize = DocumentTokenizer(
        f"{out}/tokens", tokenizer, eos_token=EOS, shuffle_documents=False, save_filename="all"
    )
    pipeline = [JsonlReader(f"{out}/input"), tokenize]
    return LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=f"{out}/logs").run


def _datatrove_documents(out: Path) -> Iterator[bytes]:
    import numpy as np

    for file in sorted((out / "tokens").glob("*.ds")):
        tokens = np.fromfile(file, "<u2")
        ends = np.fromfile(f"{file}.index", "<u8").astype(np.int64)
        yield from (document[:-1].tobytes() for document in np.split(tokens, ends[:-1]))


def _megatron(corpus: list[str], tokenizer: str, out: str) -> Work:
    """The tool of Megatron-LM, or its structure without a checkout: a pool, one encode per text."""
    checkout = os.environ.get("MEGATRON_LM")
    if checkout:
        tool = _megatron_tool(checkout, "preprocess_data.py", tokenizer, out)
        return _run_on_plain_lines([*tool, "--workers", "1"], corpus, out)

    import multiprocessing

    import numpy as np
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    def work() -> None:
        builder = IndexedDatasetBuilder(f"{out}/all.bin", dtype=np.uint16)
        for file in corpus:
            with (
                multiprocessing.Pool(1, _load_encoder, (tokenizer,)) as pool,
                gzip.open(file, "rt", encoding="utf-8") as lines,
            ):
                for ids in pool.imap(_encode_line, lines, 32):
                    builder.add_document(torch.IntTensor(ids), [len(ids)])
                pool.close()
                pool.join()
        builder.finalize(f"{out}/all.idx")

    return work


def _megatron_gigatoken(corpus: list[str], tokenizer: str, out: str) -> Work:
    checkout = os.environ.get("MEGATRON_LM")
    if not checkout:
        sys.exit("the tool is part of Megatron-LM; set MEGATRON_LM to a checkout of it")
    tool = _megatron_tool(checkout, "preprocess_data_fast.py", tokenizer, out)
    return _run_on_plain_lines([*tool, "--use-gigatoken"], corpus, out)


def _megatron_tool(checkout: str, name: str, tokenizer: str, out: str) -> list[str]:
    from transformers import PreTrainedTokenizerFast

    folder = f"{out}/tokenizer"
    PreTrainedTokenizerFast(tokenizer_file=tokenizer, eos_token=EOS).save_pretrained(folder)
    flags = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", folder]
    return [sys.executable, f"{checkout}/tools/{name}", *flags, "--append-eod"]


def _run_on_plain_lines(tool: list[str], corpus: list[str], out: str) -> Work:
    """One call per file, decompressed before: these tools do not read gzip (the first hangs)."""

    def work() -> None:
        for number, file in enumerate(corpus):
            plain = Path(out, f"{number:05}.jsonl")
            with igzip.open(file, "rb") as compressed, plain.open("wb") as lines:
                shutil.copyfileobj(compressed, lines, 1 << 20)  # type: ignore[arg-type]
            paths = ["--input", str(plain), "--output-prefix", f"{out}/{number:05}"]
            subprocess.run([*tool, *paths], check=True, stdout=sys.stderr)

    return work


def _load_encoder(tokenizer: str) -> None:
    global _encoder
    from tokenizers import Tokenizer

    _encoder = Tokenizer.from_file(tokenizer)


def _encode_line(line: str) -> list[int]:
    eos_id = _encoder.token_to_id(EOS)
    assert eos_id is not None, EOS
    return [*_encoder.encode(json.loads(line)["text"]).ids, eos_id]


def _megatron_documents(out: Path) -> Iterator[bytes]:
    import numpy as np

    from data_prep.token_stream import megatron_shards

    for file in sorted(out.glob("*.idx")):
        index = megatron_shards.decode_index(file.read_bytes(), str(file))
        tokens = np.fromfile(file.with_suffix(".bin"), index.dtype).astype("<u2")
        documents = np.split(tokens, np.cumsum(index.lengths)[:-1])
        yield from (document[:-1].tobytes() for document in documents)


def _datasets(corpus: list[str], tokenizer: str, out: str) -> Work:
    import datasets
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [encoding.ids for encoding in encoder.encode_batch(batch["text"])]}

    def work() -> None:
        cache = f"{out}/cache"
        rows = datasets.load_dataset("json", data_files=corpus, split="train", cache_dir=cache)
        mapped = rows.map(encode, batched=True, remove_columns=rows.column_names)
        mapped.save_to_disk(f"{out}/mapped")

    return work


def _datasets_documents(out: Path) -> Iterator[bytes]:
    import datasets
    import numpy as np

    rows: Any = datasets.load_from_disk(str(out / "mapped"))
    for row in rows:
        yield np.array(row["ids"], "<u2").tobytes()


PEERS = {
    "datatrove": Chain(_datatrove, _datatrove_documents, ("datatrove",)),
    "Megatron preprocess": Chain(_megatron, _megatron_documents, ("megatron",)),
    "Megatron gigatoken": Chain(_megatron_gigatoken, _megatron_documents, ("gigatoken", "awkward")),
    "datasets.map": Chain(_datasets, _datasets_documents, ("datasets",)),
}
