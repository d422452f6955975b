"""Questions are read as the hub has them, and answered as lm-evaluation-harness answers them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import CONFIG
from tiny_finished_run import MODEL, RUN_ID

from data_prep.core.errors import ConfigurationError
from data_prep.core.settings import evolve
from eval.model.loaded_model import finished_run, load_run
from eval.pipeline import evaluate
from eval.steering import intervention, loglikelihood, multiple_choice, per_item_results
from eval.steering.multiple_choice import Question
from training import run_record

REAL = Path(__file__).parents[4] / "shared" / "data"
MMLU = {
    "question": " Which is a fruit? ",
    "subject": "x",
    "choices": ["iron", "a pear"],
    "answer": 1,
}
ARC = {
    "question": "Which is a fruit?",
    "choices": {"text": ["iron", "a pear", "sand"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
BOOLQ = {"question": "is a pear a fruit", "passage": "Pears grow on trees.", "answer": True}


@pytest.fixture(scope="module")
def subject(finished):
    return load_run(finished, finished_run(finished, RUN_ID), CONFIG)


@pytest.fixture(scope="module")
def shift():
    return 0.5 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0))


def written(folder: Path, *rows: dict) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{folder}/rows.jsonl#text=question"


def contents(questions: list[Question]) -> list[tuple]:
    return [question[1:] for question in questions]


def test_the_rows_of_mmlu_arc_and_boolq_are_read_in_both_forms(tmp_path):
    for row, letter, cloze in (
        (
            MMLU,
            ("Which is a fruit?\nA. iron\nB. a pear\nAnswer:", ("A", "B"), 1),
            ("Question: Which is a fruit?\nAnswer:", ("iron", "a pear"), 1),
        ),
        (
            ARC,
            ("Which is a fruit?\nA. iron\nB. a pear\nC. sand\nAnswer:", ("A", "B", "C"), 1),
            ("Question: Which is a fruit?\nAnswer:", ("iron", "a pear", "sand"), 1),
        ),
        (
            BOOLQ,
            (
                "Pears grow on trees.\nQuestion: is a pear a fruit?\nA. no\nB. yes\nAnswer:",
                ("A", "B"),
                1,
            ),
            ("Pears grow on trees.\nQuestion: is a pear a fruit?\nAnswer:", ("no", "yes"), 1),
        ),
    ):
        uri = written(tmp_path, row)
        assert contents(multiple_choice.read(f"letter:{uri}", CONFIG)) == [letter]
        assert contents(multiple_choice.read(f"cloze:{uri}", CONFIG)) == [cloze]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": 0}, "row 0: `choices` is None; expected 2 to 26 texts"),
        ({"question": "?", "choices": ["one"], "answer": 0}, r"`choices` is \['one'\]"),
        (MMLU | {"answer": 2}, r"row 0: the answer is 2, which is none of \[0, 1\]"),
        (ARC | {"answerKey": "Z"}, r"the answer is 'Z', which is none of \['1', '2', '3'\]"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, message):
    with pytest.raises(ConfigurationError, match=message):
        multiple_choice.read(f"cloze:{written(tmp_path, row)}", CONFIG)


def test_a_benchmark_without_a_form_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="expected letter:URI or cloze:URI"):
        multiple_choice.read(written(tmp_path, MMLU), CONFIG)


def test_a_likelihood_is_the_plain_sum_whatever_the_batch_and_too_long_a_context_loses_its_beginning(
    subject, shift
):
    draw, room = np.random.default_rng(0), MODEL.max_sequence_length
    texts = [draw.integers(1, 300, n).tolist() for n in (9, 9, 20, 9, room + 30)]
    rows = [
        loglikelihood.row(text[:-4], text[-4:], subject.model, strength)
        for text in texts
        for strength in (0.0, 3.0)
    ]
    found = loglikelihood.likelihoods(
        subject.model, rows, shift, "heads", subject.batch, lambda n: None
    )
    for row, one in zip(rows, found, strict=True):
        assert len(row.tokens) <= room + 1
        with (
            torch.no_grad(),
            intervention.steered(subject.model, shift, torch.tensor([row.strength]), "all"),
        ):
            logs = subject.model(torch.tensor([row.tokens[:-1]]))[0, -4:].log_softmax(-1)
        wanted = torch.tensor(row.tokens[-4:])
        assert one.log == pytest.approx(float(logs.gather(1, wanted[:, None]).sum()), abs=1e-4)
        assert one.is_greedy == bool((logs.argmax(-1) == wanted).all())
    assert found[0].log != found[1].log


def rows_of(name: str, n: int) -> list[dict]:
    """Real rows where they are, else made-up ones, of one shape."""
    import gzip

    path = REAL / name
    if path.exists():
        with gzip.open(path, "rt") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(n), strict=False)]
    words = np.random.default_rng(0).permutation(
        ["tree", "iron", "a pear", "the sea", "salt", "rain"] * n
    )
    return [
        {
            "question": f"What is {words[i]} number {i}?",
            "choices": list(words[i : i + 4]),
            "answer": i % 4,
        }
        for i in range(n)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["letter", "cloze"])
def test_the_harness_gets_the_same_accuracies_on_the_same_rows_steered_or_not(
    subject, shift, tmp_path, form
):
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    from eval.tools import lm_eval_adapter

    uri = written(tmp_path, *rows_of("mmlu/validation.jsonl.gz", 30))
    questions = multiple_choice.read(f"{form}:{uri}", CONFIG)
    ours = multiple_choice.answer(subject, questions, shift, (0.0, 4.0), CONFIG, lambda n: None)
    letter = r"{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
    task = {
        "task": f"local_{form}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": uri.partition("#")[0]}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": (
            letter if form == "letter" else r"Question: {{question.strip()}}\nAnswer:"
        ).replace("\\n", "\n"),
        "doc_to_choice": ["A", "B", "C", "D"] if form == "letter" else "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    for column, strength in enumerate((0.0, 4.0)):
        theirs = lm_eval_adapter.run(
            lm_eval_adapter.SteeredLM(subject, shift, strength, CONFIG.probing.site), [task], seed=0
        )[f"local_{form}"]
        assert theirs["acc,none"] == pytest.approx(ours.likely[:, column].mean())
        if form == "cloze":
            assert theirs["acc_norm,none"] == pytest.approx(ours.norm[:, column].mean())


def test_the_harness_gets_rolling_likelihoods_and_greedy_texts(subject, shift):
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    from lm_eval.api.instance import Instance

    from eval.tools.lm_eval_adapter import SteeredLM

    model = SteeredLM(subject, shift, 0.0, CONFIG.probing.site)
    text = "the sea is wide and the boat is small " * 20  # more tokens than the model has positions
    (rolled,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ids = [subject.tokenizer.eos_id, *model.tok_encode(text)]
    first = MODEL.max_sequence_length
    with torch.no_grad():
        logs = subject.model(torch.tensor([ids[:first]]))[0].log_softmax(-1)
    head = float(logs.gather(1, torch.tensor(ids[1 : first + 1])[:, None]).sum())
    assert rolled < head < 0
    (whole,) = model.generate_until(
        [Instance("generate_until", {}, ("the sea", {"max_gen_toks": 8}), 0)]
    )
    asked = [("the sea", 8), ("the boat is small and", 5), ("a", 8)]
    several = [
        Instance("generate_until", {}, (context, {"max_gen_toks": n}), i)
        for i, (context, n) in enumerate(asked)
    ]
    assert model.generate_until(several) == [model.generate_until([one])[0] for one in several]
    stop = whole[3]
    (cut,) = model.generate_until(
        [Instance("generate_until", {}, ("the sea", {"max_gen_toks": 8, "until": [stop]}), 0)]
    )
    assert cut == whole.partition(stop)[0]


def test_an_evaluation_reports_the_accuracy_of_each_benchmark_at_each_strength(finished, tmp_path):
    uri = written(tmp_path, MMLU, BOOLQ | {"choices": None})
    small = {
        "generation.n_prompts": 2,
        "generation.samples_per_prompt": 1,
        "steering.controls": (),
        "probing.attributes": (),
        "probing.n_permutations": 0,
    }
    config = evolve(CONFIG, {"capability.benchmarks": (f"letter:{uri}", f"cloze:{uri}"), **small})
    report = evaluate(finished, RUN_ID, config)
    names = [f"letter:{uri}", f"cloze:{uri}", f"cloze:{uri} norm"]
    assert [list(one.accuracy) for one in report.steered] == [names] * 3
    found = per_item_results.read(run_record.run_uri(finished, RUN_ID), config)
    for one in report.steered:
        for name in names:
            mine = found[f"accuracy/{name}", one.strength].values()
            assert (
                len(mine) == one.accuracy[name].n == 2 and sum(mine) / 2 == one.accuracy[name].value
            )
