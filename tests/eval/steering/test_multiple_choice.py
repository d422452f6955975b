"""Questions are answered as lm-evaluation-harness answers them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import CONFIG
from tiny_finished_run import MODEL, RUN_ID

from data_prep.core.settings import evolve
from eval.config import KNOWN_CONDITIONS
from eval.eval_report import eval_uri
from eval.inputs import benchmarks
from eval.inputs.benchmarks import Question
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import load_run
from eval.model.measurement_store import MeasurementStore
from eval.pipeline import evaluate
from eval.steering import multiple_choice, per_item_results
from eval.steering.conditions import Condition
from eval.steering.intervention import Shift
from training import run_record
from training.run_record import run_uri

REAL = Path(__file__).parents[4] / "shared" / "data"
MMLU = {"question": "Which is a fruit?", "choices": ["iron", "a pear"], "answer": 1}
BOOLQ = {"question": "is a pear a fruit", "passage": "Pears grow on trees.", "answer": True}

LETTER_TEMPLATE = (
    "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
    "D. {{choices[3]}}\nAnswer:"
)


@pytest.fixture(scope="module")
def loaded(finished):
    return load_run(finished, run_record.finished(finished, RUN_ID), CONFIG.compute)


@pytest.fixture(scope="module")
def shift():
    return Shift(0.5 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def session(loaded, tmp_path):
    store = MeasurementStore(str(tmp_path / "eval"), loaded.weights_id)
    return EvalSession(loaded=loaded, store=store, seed=0, advance=lambda n: None)


def write_rows(folder: Path, *rows: dict) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{folder}/rows.jsonl#text=question"


def read(name: str) -> list[Question]:
    return benchmarks.read_questions(name, 500, seed=0).questions


def real_or_invented_rows(name: str, n: int) -> list[dict]:
    """Rows of a real benchmark if it is there, else invented rows of the same shape."""
    path = REAL / name
    if path.exists():
        with gzip.open(path, "rt") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(n), strict=False)]
    words = ["tree", "iron", "a pear", "the sea", "salt", "rain"]
    random = np.random.default_rng(0)
    return [
        {
            "question": f"What is {words[i % len(words)]} number {i}?",
            "choices": random.permutation(words)[:4].tolist(),
            "answer": i % 4,
        }
        for i in range(n)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["letter", "cloze"])
def test_the_harness_gets_the_same_accuracies(session, shift, tmp_path, form):
    """On the same rows, steered and unsteered."""
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    from eval.tools import lm_eval_adapter
    from eval.tools.lm_eval_adapter import SteeredLM

    uri = write_rows(tmp_path, *real_or_invented_rows("mmlu/validation.jsonl.gz", 30))
    condition = Condition("iti", [], shift, (0.0, 4.0), "all")
    ours = multiple_choice.answer(session, read(f"{form}:{uri}"), condition)
    is_letter = form == "letter"
    task = {
        "task": f"local_{form}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": uri.partition("#")[0]}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": LETTER_TEMPLATE if is_letter else "Question: {{question.strip()}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C", "D"] if is_letter else "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    for column, strength in enumerate((0.0, 4.0)):
        model = SteeredLM(session.loaded, shift, strength)
        theirs = lm_eval_adapter.run(model, [task], seed=0)[f"local_{form}"]
        assert theirs["acc,none"] == pytest.approx(ours.likely[:, column].mean())
        if form == "cloze":
            assert theirs["acc_norm,none"] == pytest.approx(ours.norm[:, column].mean())


def test_the_harness_gets_rolling_likelihoods_and_greedy_texts(loaded, shift):
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    from lm_eval.api.instance import Instance

    from eval.tools.lm_eval_adapter import SteeredLM

    model = SteeredLM(loaded, shift, 0.0)
    text = "the sea is wide and the boat is small " * 20  # more tokens than the model has positions
    (rolling,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ids = [loaded.tokenizer.eos_id, *model.tok_encode(text)]
    length = MODEL.max_sequence_length
    with torch.no_grad():
        logprobs = loaded.model(torch.tensor([ids[:length]]))[0].log_softmax(-1)
    first_window = float(logprobs.gather(1, torch.tensor(ids[1 : length + 1])[:, None]).sum())
    assert rolling < first_window < 0
    (whole,) = model.generate_until(
        [Instance("generate_until", {}, ("the sea", {"max_gen_toks": 8}), 0)]
    )
    requests = [
        Instance("generate_until", {}, (context, {"max_gen_toks": n}), i)
        for i, (context, n) in enumerate([("the sea", 8), ("the boat is small and", 5), ("a", 8)])
    ]
    one_by_one = [model.generate_until([request])[0] for request in requests]
    assert model.generate_until(requests) == one_by_one
    stop = whole[3]
    (cut,) = model.generate_until(
        [Instance("generate_until", {}, ("the sea", {"max_gen_toks": 8, "until": [stop]}), 0)]
    )
    assert cut == whole.partition(stop)[0]


def test_the_report_holds_the_accuracy_of_each_benchmark(finished, tmp_path):
    uri = write_rows(tmp_path, MMLU, BOOLQ | {"choices": None})
    config = evolve(
        CONFIG,
        {
            "capability.benchmarks": (f"letter:{uri}", f"cloze:{uri}"),
            "generation.n_prompts": 2,
            "generation.samples_per_prompt": 1,
            "conditions": {n: KNOWN_CONDITIONS[n] for n in ("plain", "iti")},
            "probing.attributes": (),
            "probing.n_permutations": 0,
        },
    )
    report = evaluate(finished, RUN_ID, config)
    names = [f"letter:{uri}", f"cloze:{uri}", f"cloze:{uri} norm"]
    points = [(name, point) for name in report.conditions for point in report.conditions[name]]
    assert [list(point.accuracy) for _, point in points] == [names] * 3
    items = per_item_results.read(eval_uri(run_uri(finished, RUN_ID), config))
    for condition, result in points:
        for name in names:
            values = items[condition, f"accuracy/{name}", result.strength].values()
            assert len(values) == result.accuracy[name].n == 2
            assert sum(values) / 2 == result.accuracy[name].value
