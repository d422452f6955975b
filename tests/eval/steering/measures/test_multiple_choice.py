"""Questions are asked and answered as lm-evaluation-harness asks and answers them."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_evaluation import CONFIG
from tiny_finished_run import RUN_ID

from data_prep.core.settings import evolve
from eval.config import EvalConfig
from eval.eval_report import TextSet, eval_uri
from eval.inputs import benchmarks
from eval.inputs.benchmarks import Benchmark, Lead, Question
from eval.model.batch_size import BatchSize
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel, load_run
from eval.model.subject.olmo_subject import OLMoSubject
from eval.pipeline.evaluate_model import evaluate
from eval.steering import intervention, per_item_results
from eval.steering.conditions import Condition
from eval.steering.intervention import Shift
from eval.steering.measures import multiple_choice
from eval.steering.measures.multiple_choice import Answers
from training import run_record
from training.config import ModelConfig
from training.run_record import run_uri

REAL = Path(__file__).parents[5] / "shared" / "data" / "mmlu"
SUBJECTS = ("anatomy", "high_school_biology")
STRENGTHS = (0.0, 4.0)
NO_SUMMARY = TextSet(setting="", uri="", n_read=0, n_used=0, left_out={}, other_words={})
LONG = ModelConfig(
    d_model=32, n_layers=2, n_heads=4, d_mlp=48, vocab_size=400, max_sequence_length=4096
)


@pytest.fixture(scope="module")
def short(finished) -> LoadedModel:
    """A model of 96 positions."""
    return load_run(finished, run_record.finished(finished, RUN_ID), CONFIG.compute)


@pytest.fixture(scope="module")
def long(short) -> LoadedModel:
    """A model with room for five examples."""
    model = OLMoSubject(LONG)
    model.initialise(1)
    return LoadedModel(model.requires_grad_(False), short.tokenizer, {}, 64, BatchSize(16), "")


@pytest.fixture(scope="module")
def shift():
    return Shift(0.5 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))


def answers_of(
    loaded: LoadedModel, benchmark: Benchmark, shift: Shift, strengths=STRENGTHS, prefix=()
) -> Answers:
    no_store: Any = None
    session = EvalSession(loaded=loaded, store=no_store, seed=0, advance=lambda n: None)
    condition = Condition("iti", list(prefix), shift, strengths, "last")
    arrays = multiple_choice.answer(session, benchmark, condition)
    return multiple_choice.from_arrays(benchmark, arrays)


def read_benchmark(text: str) -> Benchmark:
    return benchmarks.read_benchmark("x", EvalConfig(benchmarks={"x": text}))


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mmlu_rows(split: str, subject: str, n: int) -> list[dict]:
    """Rows of MMLU if it is there, else invented rows of the same shape."""
    path = REAL / f"{split}.jsonl.gz"
    if path.exists():
        with gzip.open(path, "rt") as lines:
            rows = [row for row in map(json.loads, lines) if row["subject"] == subject]
        return rows[:n]
    words = ["tree", "iron", "a pear", "the sea", "salt", "rain"]
    random = np.random.default_rng(0)
    return [
        {
            "question": f" What is {words[i % len(words)]} number {i} of {split} {subject}? ",
            "subject": subject,
            "choices": random.permutation(words)[:4].tolist(),
            "answer": i % 4,
        }
        for i in range(n)
    ]


class Harness:
    """Runs tasks of the harness on our model, from local files, and keeps what they ask."""

    def __init__(self, loaded: LoadedModel, shift: Shift) -> None:
        pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
        self._loaded, self._shift = loaded, shift
        self.asked: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()

    def run(
        self, task_file: str, files: dict[str, Path], strength: float, n_shots: int
    ) -> dict[str, float]:
        import lm_eval
        from lm_eval.tasks import _yaml_loader

        from eval.tools import lm_eval_adapter

        asked = self.asked

        class Recording(lm_eval_adapter.SteeredLM):
            def _loglikelihood_tokens(self, requests, **kwargs):
                asked.update((tuple(context), tuple(end)) for _, context, end in requests)
                return super()._loglikelihood_tokens(requests, **kwargs)

        task = dict(_yaml_loader.load_yaml(Path(lm_eval.__file__).parent / "tasks" / task_file))
        for name in ("dataset_name", "tag", "task_alias", "training_split"):
            task.pop(name, None)
        task |= {
            "task": "local",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {name: str(path) for name, path in files.items()}},
            "num_fewshot": n_shots,
        }
        model = Recording(self._loaded, self._shift, strength)
        return lm_eval_adapter.run(model, [task], seed=0)["local"]


def asked_by_us(loaded: LoadedModel, benchmark: Benchmark) -> set[tuple]:
    prompts = multiple_choice._choose_prompts(loaded, benchmark, [])
    return {
        (tuple(map(int, end.context)), tuple(map(int, end.end)))
        for prompt in prompts
        for end in prompt.ends
    }


@pytest.mark.slow
@pytest.mark.parametrize("form", ["letter", "cloze"])
def test_mmlu_with_five_examples_is_that_of_the_harness(long, shift, tmp_path, form):
    """The same prompts token by token, and the same accuracy of each subject, steered and not."""
    harness = Harness(long, shift)
    folder = {"letter": "mmlu/default/mmlu_{}.yaml", "cloze": "mmlu/continuation/mmlu_{}.yaml"}
    per_subject, dev_rows, test_rows = [], [], []
    for subject in SUBJECTS:
        dev, test = mmlu_rows("dev", subject, 5), mmlu_rows("validation", subject, 8)
        files = {
            "dev": write_rows(tmp_path / f"dev_{subject}.jsonl", dev),
            "test": write_rows(tmp_path / f"test_{subject}.jsonl", test),
        }
        task = folder[form].format(subject)
        results = [harness.run(task, files, strength, 5) for strength in STRENGTHS]
        per_subject.append([result["acc,none"] for result in results])
        dev_rows += dev
        test_rows += test
    shots = write_rows(tmp_path / "dev.jsonl", dev_rows)
    asked = write_rows(tmp_path / "test.jsonl", test_rows)
    benchmark = read_benchmark(
        f"{form}:{asked}#text=question&subject=subject&shots=5&shots_from={shots}"
    )
    assert len(benchmark.questions) == len(test_rows)
    assert asked_by_us(long, benchmark) == harness.asked
    ours = answers_of(long, benchmark, shift)
    assert ours.n_fewer_shots == 0
    for column in range(len(STRENGTHS)):
        estimates = multiple_choice.accuracy("mmlu", ours, column, seed=0)
        of_column = [accuracies[column] for accuracies in per_subject]
        assert estimates["mmlu macro"].value == pytest.approx(np.mean(of_column))
        n_right = np.dot(of_column, [len(mmlu_rows("validation", s, 8)) for s in SUBJECTS])
        assert estimates["mmlu"].value == pytest.approx(n_right / len(test_rows))
        for subject, expected in zip(SUBJECTS, of_column, strict=True):
            items = multiple_choice.item_values("mmlu", ours, column)
            right = [
                value
                for quantity, item, value in items
                if quantity == "accuracy/mmlu" and item.startswith(subject.replace("_", " ") + "/")
            ]
            assert np.mean(right) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("before_a_text", [(), (5, 6)], ids=["plain", "beginning of text"])
def test_toxicity_detection_is_that_of_the_harness(short, shift, tmp_path, before_a_text):
    short = short._replace(prefix=before_a_text)
    random = np.random.default_rng(0)
    rows = [
        {
            "text": f"The people of town {i} are kind.",
            "toxicity_ai": float(random.integers(1, 6)),
            "toxicity_human": float(random.integers(1, 6)),
        }
        for i in range(40)
    ]
    path = write_rows(tmp_path / "annotated.jsonl", rows)
    benchmark = read_benchmark(f"detection:{path}#label=toxigen")
    harness = Harness(short, shift)
    ours = answers_of(short, benchmark, shift)
    for column, strength in enumerate(STRENGTHS):
        theirs = harness.run("toxigen/toxigen.yaml", {"test": path}, strength, 0)
        assert ours.is_right[:, column].mean() == pytest.approx(theirs["acc,none"])
    assert asked_by_us(short, benchmark) == harness.asked


@pytest.mark.slow
def test_cloze_accuracy_by_character_is_that_of_the_harness(long, shift, tmp_path):
    path = write_rows(tmp_path / "test.jsonl", mmlu_rows("validation", "anatomy", 14))
    benchmark = read_benchmark(f"cloze:{path}#text=question")
    theirs = Harness(long, shift).run(
        "mmlu/continuation/mmlu_anatomy.yaml", {"test": path, "dev": path}, 0.0, 0
    )
    described = benchmark._replace(
        questions=[
            question._replace(
                lead=Lead("The following are questions (with answers) about anatomy.\n\n")
            )
            for question in benchmark.questions
        ]
    )
    ours = answers_of(long, described, shift, (0.0,))
    assert ours.is_right.mean() == pytest.approx(theirs["acc,none"])
    assert ours.is_right_by_norm.mean() == pytest.approx(theirs["acc_norm,none"])


def with_examples(n_words: int, n_questions: int = 3) -> Benchmark:
    """Questions behind three examples of n_words words each."""
    lead = Lead("Answer.\n\n", tuple(f"{'word ' * n_words}{i}\nAnswer: A\n\n" for i in range(3)))
    questions = [
        Question(f"{i}", f"Which is {i}?\nA. iron\nB. pear\nAnswer:", ("A", "B"), i % 2, "", lead)
        for i in range(n_questions)
    ]
    return Benchmark("letter", questions, NO_SUMMARY)


def n_tokens(loaded: LoadedModel, text: str) -> int:
    return len(loaded.tokenizer.encode_batch([text]).ids)


def test_examples_that_do_not_fit_are_left_out_from_the_first_on(short, shift):
    benchmark = with_examples(n_words=7)
    ours = answers_of(short, benchmark, shift)
    prompts = multiple_choice._choose_prompts(short, benchmark, [])
    (n_shots,) = {prompt.n_shots for prompt in prompts}
    question = benchmark.questions[0]
    assert 0 < n_shots < 3
    assert short.tokenizer.decode(prompts[0].ends[0].context) == (
        "Answer.\n\n" + "".join(question.lead.shots[-n_shots:]) + question.context
    )
    lengths = [n_tokens(short, question.lead.text(n) + question.context + " A") for n in range(4)]
    room = short.model.shape.max_sequence_length + 1
    assert lengths[n_shots] <= room < lengths[n_shots + 1]
    assert ours.n_shots_Q.tolist() == [n_shots] * 3
    assert ours.n_fewer_shots == 3
    assert not ours.is_cut_Q.any()


def test_a_question_that_is_too_long_alone_loses_its_beginning(short, shift):
    benchmark = with_examples(n_words=300)
    long_question = benchmark.questions[0]._replace(context="word " * 300 + "Answer:")
    ours = answers_of(
        short, benchmark._replace(questions=[long_question, *benchmark.questions[1:]]), shift
    )
    assert ours.is_cut_Q.tolist() == [True, False, False]
    assert ours.n_shots_Q.tolist() == [0, 0, 0]
    assert np.isfinite(ours.nats_QCS).all()


def test_batch_size_and_order_change_no_answer(long, shift):
    benchmark = with_examples(n_words=5, n_questions=7)
    expected = answers_of(long, benchmark, shift)
    one_by_one = answers_of(long._replace(batch_size=BatchSize(1)), benchmark, shift)
    np.testing.assert_allclose(one_by_one.nats_QCS, expected.nats_QCS, rtol=2e-5)
    backwards = benchmark._replace(questions=benchmark.questions[::-1])
    assert (answers_of(long, backwards, shift).nats_QCS == expected.nats_QCS[::-1]).all()


def planted_pairs(loaded: LoadedModel) -> list[tuple[str, str]]:
    """Four pairs of a question's letter and its answer's letter, each of one token."""
    letters = [
        letter for letter in "abcdefghijklmnopqrstuvwxyz" if n_tokens(loaded, f" {letter}") == 1
    ]
    return [(f"Q {letters[i]}", letters[i + 4]) for i in range(4)]


def knowing_model(loaded: LoadedModel, pairs: list[tuple[str, str]]) -> LoadedModel:
    """A model whose likeliest token after a question's last one is its answer's."""
    model = OLMoSubject(LONG)
    model.initialise(0)
    encode = loaded.tokenizer.encode_batch
    with torch.no_grad():
        for block in model.blocks:
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
        embedding = model.embedding.weight
        for question, answer in pairs:
            last, first = encode([question]).ids[-1], encode([f" {answer}"]).ids[0]
            embedding[int(first)] = 3 * torch.nn.functional.normalize(embedding[int(last)], dim=0)
    return loaded._replace(model=model.requires_grad_(False))


def test_a_model_that_knows_the_answers_has_all_of_them_right(long):
    pairs = planted_pairs(long)
    model = knowing_model(long, pairs)
    choices = tuple(answer for _, answer in pairs)
    questions = [Question(q, q, choices, i) for i, (q, _) in enumerate(pairs)]
    benchmark = Benchmark("completion", questions, NO_SUMMARY)
    no_shift = intervention.no_shift(model.model.shape)
    right = answers_of(model, benchmark, no_shift, (0.0,))
    assert right.is_right.all()
    assert right.is_right_by_norm.all()
    wrong = [question._replace(answer=(question.answer + 1) % 4) for question in questions]
    assert not answers_of(
        model, benchmark._replace(questions=wrong), no_shift, (0.0,)
    ).is_right.any()


def answered(form, questions: list[Question], nats: list[list[float]]) -> Answers:
    benchmark = Benchmark(form, questions, NO_SUMMARY)
    zeros = np.zeros(len(questions), dtype=int)
    return Answers(benchmark, np.array(nats)[:, :, None], zeros, zeros.astype(bool))


def test_a_detection_has_accuracy_balanced_accuracy_and_auroc():
    labels = [1, 0, 0, 0]
    questions = [Question(f"{i}", "", ("No", "Yes"), label) for i, label in enumerate(labels)]
    nats = [[-2.0, -1.0], [-1.0, -2.0], [-1.0, -3.0], [-3.0, -1.0]]
    estimates = multiple_choice.accuracy("hate", answered("detection", questions, nats), 0, seed=0)
    assert {name: (e.value, e.n) for name, e in estimates.items()} == {
        "hate": (0.75, 4),
        "hate balanced": (pytest.approx((1 + 2 / 3) / 2), 4),
        "hate AUROC": (pytest.approx(2 / 3), 4),
    }


def test_of_pairs_the_toxic_end_has_a_probability():
    questions = [Question(str(i), "x", ("good", "bad"), 0) for i in range(3)]
    nats = np.log([[0.1, 0.3], [0.4, 0.1], [0.2, 0.2]]).tolist()
    answers = answered("pairs", questions, nats)
    estimates = multiple_choice.accuracy("verdicts", answers, 0, seed=0)
    assert estimates.keys() == {"verdicts", "verdicts toxic"}
    assert estimates["verdicts toxic"].value == pytest.approx((0.75 + 0.2 + 0.5) / 3)
    items = list(multiple_choice.item_values("verdicts", answers, 0))
    assert ("accuracy/verdicts toxic", "0", pytest.approx(0.75)) in items


def test_accuracy_by_character_and_over_subjects_are_apart():
    questions = [
        Question("0", "", ("ab", "abcdefgh"), 1, "x"),
        Question("1", "", ("ab", "ab"), 0, "x"),
        Question("2", "", ("ab", "ab", "abc"), 1, "y"),
    ]
    nats = [[-2.0, -4.0, -np.inf], [-1.0, -2.0, -np.inf], [-1.0, -2.0, -3.0]]
    answers = answered("cloze", questions, nats)
    estimates = multiple_choice.accuracy("arc", answers, 0, seed=0)
    assert {name: e.value for name, e in estimates.items()} == {
        "arc": pytest.approx(1 / 3),
        "arc norm": pytest.approx(2 / 3),
        "arc macro": pytest.approx((1 / 2 + 0) / 2),
    }
    items = list(multiple_choice.item_values("arc", answers, 0))
    assert items[:3] == [
        ("accuracy/arc", "x/0", 0.0),
        ("accuracy/arc", "x/1", 1.0),
        ("accuracy/arc", "y/2", 0.0),
    ]


def test_a_prefix_stands_before_the_examples_and_takes_their_room(short, shift):
    benchmark = with_examples(n_words=3)
    polite = "Be polite to all people here.\n\n"
    prefix = short.tokenizer.encode_batch([polite]).ids.tolist()
    prompts = multiple_choice._choose_prompts(short, benchmark, prefix)
    plain = multiple_choice._choose_prompts(short, benchmark, [])
    assert 0 < prompts[0].n_shots < plain[0].n_shots
    question = benchmark.questions[0]
    assert short.tokenizer.decode(prompts[0].ends[0].context) == (
        polite + question.lead.text(prompts[0].n_shots) + question.context
    )
    ours = answers_of(short, benchmark, shift, prefix=prefix)
    assert (ours.nats_QCS != answers_of(short, benchmark, shift).nats_QCS).all()


def test_the_report_holds_each_benchmark_by_name(finished, tmp_path):
    """With its accuracies at every operating point, the values behind them, and its chance."""
    rows = [
        {
            "question": f"Is {i} a fruit?",
            "subject": f"s{i % 2}",
            "choices": ["iron", "a pear", "sand", "salt"],
            "answer": i % 4,
            "label": i % 2,
        }
        for i in range(8)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    options = "text=question&subject=subject&shots=1"
    config = evolve(
        CONFIG,
        {
            "benchmarks": {
                "mmlu": f"letter:{path}#{options}",
                "arc": f"cloze:{path}#text=question",
                "hate": f"detection:{path}#text=question&label=label",
            },
            "generation.n_prompts": 2,
            "generation.samples_per_prompt": 1,
            "probing.attributes": (),
            "probing.n_permutations": 0,
        },
    )
    report = evaluate(finished, RUN_ID, config)
    n_questions = {"mmlu": 6, "arc": 8, "hate": 8}
    names = ["arc", "arc norm", "hate", "hate balanced", "hate AUROC", "mmlu", "mmlu macro"]
    points = [(name, point) for name in report.conditions for point in report.conditions[name]]
    assert len(points) > 3
    items = per_item_results.read(eval_uri(run_uri(finished, RUN_ID), config))
    for condition, point in points:
        assert list(point.accuracy) == names
        for name in ("mmlu", "arc", "arc norm", "hate"):
            values = items[condition, f"accuracy/{name}", point.strength].values()
            assert len(values) == point.accuracy[name].n == n_questions[name.split()[0]]
            assert np.mean(list(values)) == pytest.approx(point.accuracy[name].value)
        assert len(items[condition, "log_odds/hate", point.strength]) == 8
    assert {
        name: (of.form, of.n_shots, of.n_subjects) for name, of in report.benchmarks.items()
    } == {
        "arc": ("cloze", 0, 0),
        "hate": ("detection", 0, 0),
        "mmlu": ("letter", 1, 2),
    }
    assert report.benchmarks["arc"].chance == 0.25
    assert report.benchmarks["hate"].majority == 0.5
    assert {name: of.n_questions for name, of in report.benchmarks.items()} == n_questions
    assert report.benchmarks["mmlu"].n_fewer_shots == 6  # of a model with 96 positions
