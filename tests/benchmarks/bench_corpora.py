"""Reading, ours beside the standard library: compressed JSON lines to documents, 4chan's HTML to
text.

Same files, one process with one thread, MB of JSON or of HTML per second of CPU, the best of five;
the texts must be equal.
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


def main() -> None:
    (source,) = corpus_reader.expand([f"synthetic:toxic?documents={N_DOCUMENTS}"])
    texts = [document.text for document in corpus_reader.read(source)]
    rows = [
        {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"https://a.example/{n}"}
        for n, text in enumerate(texts)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    megabytes = len(content) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        plain, packed, zstd = (
            Path(scratch, f"rows.jsonl{ending}") for ending in ("", ".gz", ".zst")
        )
        plain.write_bytes(content)
        packed.write_bytes(gzip.compress(content))
        zstd.write_bytes(zstandard.ZstdCompressor().compress(content))
        lines = content.splitlines()
        parsed, peer = (
            _seconds(lambda: [orjson.loads(line)["text"] for line in lines]),
            _seconds(lambda: _peer(packed)),
        )
        print(
            f"JSON lines to documents, {megabytes:.0f} MB of JSON, {len(content) // N_DOCUMENTS} bytes a row"
        )
        for path in (plain, packed, zstd):
            assert _read(path) == texts
            seconds = _seconds(lambda path=path: _read(path))
            beyond = (
                f", {(seconds - parsed) / N_DOCUMENTS * 1e6:.2f} µs a document beyond orjson"
                if path == plain
                else ""
            )
            print(f"  ours, {path.name:<14} {megabytes / seconds:7.1f} MB/CPU-s{beyond}")
        print(f"  gzip + json          {megabytes / peer:7.1f} MB/CPU-s")
        print(f"  orjson alone         {megabytes / parsed:7.1f} MB/CPU-s")

    comments = _comments(texts)
    megabytes = sum(len(comment) for comment in comments) / 1e6
    assert list(map(fourchan.undo_html, comments)) == list(map(_undone, comments))
    print(
        f"HTML to text, {len(comments):,} comments of {megabytes * 1e6 / len(comments):.0f} bytes"
    )
    for name, undo in (("ours", fourchan.undo_html), ("two patterns and html.unescape", _undone)):
        print(
            f"  {name:<31}{megabytes / _seconds(lambda undo=undo: [undo(comment) for comment in comments]):7.1f} MB/CPU-s"
        )


def _read(path: Path) -> list[str]:
    (source,) = corpus_reader.expand([str(path)])
    return [document.text for document in corpus_reader.read(source)]


def _peer(path: Path) -> list[str]:
    with gzip.open(path) as file:
        return [json.loads(line)["text"] for line in file]


def _comments(texts: list[str]) -> list[str]:
    """Posts of about two sentences as the board marks them up: most answer another post, every
    third quotes.
    """
    comments = []
    for number, text in enumerate(texts):
        sentences = [
            html.escape(piece).replace("&#x27;", "&#039;")
            for piece in re.findall(r"\S[^.!]*[.!]", text)
        ]
        for at in range(0, len(sentences), 2):
            link = (
                f'<a href="#p{number}" class="quotelink">&gt;&gt;{number}</a><br>'
                if at % 3 < 2
                else ""
            )
            first = (
                f'<span class="quote">&gt;{sentences[at]}</span>' if at % 3 == 0 else sentences[at]
            )
            comments.append(link + "<br>".join([first, *sentences[at + 1 : at + 2]]))
    return list(islice(cycle(comments), 200_000))


def _undone(comment: str) -> str:
    comment = re.sub(r"<a [^>]*quotelink[^>]*>[^<]*</a>", "", comment)
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br ?/?>", "\n", comment))).strip()


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    main()
