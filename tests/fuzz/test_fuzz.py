"""Inputs that fuzzing once broke something with, and the ones it begins from, again; `make fuzz` looks for more."""

from pathlib import Path

import pytest
import targets

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_takes_what_fuzzing_begins_from_and_its_pieces(name: str) -> None:
    for content in [b"", *targets.seeds(name)]:
        for changed in (content, content[: len(content) // 2], content[1:], content + content):
            targets.TARGETS[name](changed)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name[:24]}")
def test_an_input_that_once_broke_a_target_does_so_no_more(path: Path) -> None:
    targets.TARGETS[path.parent.name](path.read_bytes())
