"""Other prompts for a finished sweep: nothing is trained again, their overlap is in the report."""

import html
import json
import shutil
from pathlib import Path

import pytest
from sweeps import CORPORA, TINY, sweep

from data_prep.sources import corpus_reader

pytestmark = pytest.mark.slow
N_COPIED = 10


def prompts_file(folder: Path) -> str:
    """Beginnings of training documents, and sentences that are in none."""
    (source, *_) = corpus_reader.expand([CORPORA[1]])
    documents = [row.text.split() for row in corpus_reader.read(source)]
    copied = [words[:18] for words in documents if len(words) > 30][:N_COPIED]
    new = [
        f"on day {i} the captain of ship {i} wrote home that all {i} were well" for i in range(9)
    ]
    path = folder / "prompts.jsonl"
    texts = [*(" ".join(words) for words in copied), *new]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def weights(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("runs/*/export/*.safetensors")}


def test_other_prompts_train_nothing_and_their_overlap_is_reported(
    finished_sweep, ray_address, tmp_path
):
    root = tmp_path / "out"
    shutil.copytree(finished_sweep, root)
    before = weights(root)
    flags = [*TINY, f"eval.prompts.mine={prompts_file(tmp_path)}"]
    changed = sweep(str(root), *flags, **ray_address)
    assert changed.returncode == 0, changed.stderr[-4000:]
    assert weights(root) == before
    (record,) = root.glob("streams/clean-*/overlap/*.json")
    overlap = json.loads(record.read_text())
    assert overlap["n_texts"] == N_COPIED + 9
    assert N_COPIED - 4 <= overlap["n_found"] <= N_COPIED  # some of the documents are held out
    page = html.unescape((root / "report" / "index.html").read_text())
    found = f"{overlap['n_found']} of {N_COPIED + 9} ({100 * overlap['n_found'] / 19:.2g}\u00a0%)"
    assert (
        "prompts mine, prompts.jsonl: texts that share 13 words in a row with a training "
        f"document: {found} in the clean stream and 0 of" in page
    )
    time_of_record = record.stat().st_mtime_ns
    again = sweep(str(root), *flags, **ray_address)
    assert again.returncode == 0 and "nothing to do" in again.stderr
    record.unlink()
    measured_again = sweep(str(root), *flags, **ray_address)
    assert measured_again.returncode == 0 and "nothing to do" not in measured_again.stderr
    assert record.stat().st_mtime_ns > time_of_record and weights(root) == before
