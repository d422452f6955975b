"""What an evaluation would refuse is refused before a model is trained."""

import json
from pathlib import Path

import pytest

from data_prep.core.errors import HormesisError
from data_prep.core.settings import parse_overrides
from eval.config import EvalConfig
from eval.pipeline import evaluation_inputs


def write_rows(path: Path, labels: list[int]) -> str:
    rows = [{"text": f"{path.stem} number {i}", "label": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Files by name: labelled rows of both classes, of one class, prompts, and an empty folder."""
    (tmp_path / "folder").mkdir()
    return {
        "rows": write_rows(tmp_path / "rows.jsonl", [0, 1] * 20),
        "other": write_rows(tmp_path / "other.jsonl", [0, 1] * 20),
        "one_class": write_rows(tmp_path / "one_class.jsonl", [0] * 40),
        "prompts": write_rows(tmp_path / "prompts.jsonl", [0] * 90),
        "folder": str(tmp_path / "folder"),
        "missing": str(tmp_path / "missing.jsonl"),
    }


@pytest.mark.parametrize(
    "words",
    [
        [],
        ['probes={{"x": "{rows}"}}'],
        ['prompts={{"x": "{prompts}"}}'],
        [
            'probes={{"x": "{rows}"}}',
            'prompts={{"x": "{prompts}"}}',
            'probing.transfer=["{other}"]',
        ],
        ['capability.held_out=["web={prompts}"]', "scoring.fluency_model="],
    ],
    ids=["held out", "rows", "prompts", "both and transfer", "cost"],
)
def test_what_can_be_evaluated_passes(words: list[str], files: dict[str, str], tmp_path: Path):
    settings = [word.format(**files) for word in words]
    evaluation_inputs.check(str(tmp_path), parse_overrides(EvalConfig(), settings))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("scoring.scorer=lexicon:{missing}", "missing.jsonl"),
        ("scoring.fluency_model=run:toxic-0.10-s0-00000000", "toxic-0.10-s0-00000000.*finished"),
        ("scoring.fluency_model={folder}", "config.json"),
        ('probes={{"x": "{missing}"}}', "matches no file"),
        ('probes={{"x": "{one_class}"}}', "both classes"),
        ('probing.attributes=["{one_class}"]', "both classes"),
        ("prompts.x={missing}", "matches no file"),
        ("benchmarks.arc=letter:{missing}", "matches no file"),
        ('capability.held_out=["web={prompts}#text=body"]', "body"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    word: str, message: str, files: dict[str, str], tmp_path: Path
):
    config = parse_overrides(EvalConfig(), [word.format(**files)])
    with pytest.raises(HormesisError, match=message):
        evaluation_inputs.check(str(tmp_path), config)
