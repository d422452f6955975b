"""reading compressed JSON lines and 4chan's HTML, against the standard library

The files are the same for each reader; rates are MB of JSON or HTML per CPU-second of one process
with one thread, the best of five. The texts must be equal.
"""

import gzip
import html
import json
import re
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import orjson
import zstandard

from data_prep.sources import corpus_reader, fourchan

N_DOCUMENTS = 30_000
N_COMMENTS = 200_000
N_REPEATS = 5


def main() -> None:
    (source,) = corpus_reader.expand([f"synthetic:toxic?documents={N_DOCUMENTS}"])
    texts = [document.text for document in corpus_reader.read(source)]
    with tempfile.TemporaryDirectory() as scratch:
        _compare_json_lines(texts, Path(scratch))
    _compare_html(_comments(texts))


def _compare_json_lines(texts: list[str], scratch: Path) -> None:
    rows = [
        {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"https://a.example/{n}"}
        for n, text in enumerate(texts)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    megabytes = len(content) / 1e6
    plain = scratch / "rows.jsonl"
    gzipped = scratch / "rows.jsonl.gz"
    zstd = scratch / "rows.jsonl.zst"
    plain.write_bytes(content)
    gzipped.write_bytes(gzip.compress(content))
    zstd.write_bytes(zstandard.ZstdCompressor().compress(content))
    lines = content.splitlines()
    orjson_seconds = _cpu_seconds(lambda: [orjson.loads(line)["text"] for line in lines])
    peer_seconds = _cpu_seconds(lambda: _read_with_standard_library(gzipped))
    print(
        f"JSON lines to documents, {megabytes:.0f} MB of JSON, "
        f"{len(content) // N_DOCUMENTS} bytes per row"
    )
    for path in (plain, gzipped, zstd):
        assert _read(path) == texts
        seconds = _cpu_seconds(lambda path=path: _read(path))
        extra = ""
        if path == plain:
            microseconds = (seconds - orjson_seconds) / N_DOCUMENTS * 1e6
            extra = f", {microseconds:.2f} µs per document more than orjson"
        print(f"  ours, {path.name:<14} {megabytes / seconds:7.1f} MB/CPU-s{extra}")
    print(f"  gzip + json          {megabytes / peer_seconds:7.1f} MB/CPU-s")
    print(f"  orjson alone         {megabytes / orjson_seconds:7.1f} MB/CPU-s")


def _compare_html(comments: list[str]) -> None:
    megabytes = sum(len(comment) for comment in comments) / 1e6
    assert list(map(fourchan.html_to_text, comments)) == list(
        map(_undo_html_with_patterns, comments)
    )
    mean_bytes = megabytes * 1e6 / len(comments)
    print(f"HTML to text, {len(comments):,} comments of {mean_bytes:.0f} bytes")
    for name, undo in (
        ("ours", fourchan.html_to_text),
        ("two patterns and html.unescape", _undo_html_with_patterns),
    ):
        seconds = _cpu_seconds(lambda undo=undo: [undo(comment) for comment in comments])
        print(f"  {name:<31}{megabytes / seconds:7.1f} MB/CPU-s")


def _read(path: Path) -> list[str]:
    (source,) = corpus_reader.expand([str(path)])
    return [document.text for document in corpus_reader.read(source)]


def _read_with_standard_library(path: Path) -> list[str]:
    with gzip.open(path) as file:
        return [json.loads(line)["text"] for line in file]


def _comments(texts: list[str]) -> list[str]:
    """Posts of about two sentences in the board's markup; most reply, and every third quotes."""
    comments = []
    for number, text in enumerate(texts):
        sentences = [
            html.escape(sentence).replace("&#x27;", "&#039;")
            for sentence in re.findall(r"\S[^.!]*[.!]", text)
        ]
        for start in range(0, len(sentences), 2):
            link = f'<a href="#p{number}" class="quotelink">&gt;&gt;{number}</a><br>'
            quote = f'<span class="quote">&gt;{sentences[start]}</span>'
            first = quote if start % 3 == 0 else sentences[start]
            body = "<br>".join([first, *sentences[start + 1 : start + 2]])
            comments.append((link if start % 3 < 2 else "") + body)
    return list(islice(cycle(comments), N_COMMENTS))


def _undo_html_with_patterns(comment: str) -> str:
    comment = re.sub(r"<a [^>]*quotelink[^>]*>[^<]*</a>", "", comment)
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br ?/?>", "\n", comment))).strip()


def _cpu_seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(N_REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
