"""The direction of an evaluation steers its model: baked, and in the harness."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file
from tiny_finished_run import RUN_ID

from data_prep.core.records import digest
from data_prep.core.settings import evolve
from eval.config import EvalConfig, GenerationConfig, ProbingConfig, ScoringConfig, SteeringConfig
from eval.eval_report import eval_uri
from eval.model import model_source
from eval.pipeline.evaluate_model import evaluate, evaluate_model
from eval.probing.directions import Directions, unit_shift
from eval.tools import bake_steering
from training.run_record import run_uri

CONFIG = EvalConfig(
    probes={"pairs": "synthetic:probes?documents=120"},
    prompts={"beginnings": "synthetic:clean?documents=2"},
    probing=ProbingConfig(n_permutations=0),
    generation=GenerationConfig(max_new_tokens=2, n_prompts=1),
    scoring=ScoringConfig(fluency_model=""),
    steering=SteeringConfig(strengths=(8.0,), top_heads=3),
)
NAME = f"eval-{digest(CONFIG)[:8]}"


class EvaluatedModel(NamedTuple):
    """arguments: how a command names the model. home: where its evaluations are."""

    arguments: list[str]
    files: Path
    home: Path


@pytest.fixture(scope="module")
def models(finished, tmp_path_factory):
    """A run and a folder with the same model, both evaluated."""
    folder = tmp_path_factory.mktemp("model") / "olmo"
    run = Path(run_uri(finished, RUN_ID))
    shutil.copytree(run / "export", folder)
    evaluate(finished, RUN_ID, CONFIG)
    source = model_source.from_folder(finished, folder)
    evaluate_model(source, CONFIG)
    return {
        "run": EvaluatedModel(["--out", finished, "--run", RUN_ID], run / "export", run),
        "folder": EvaluatedModel(
            ["--out", finished, "--model", str(folder)], folder, Path(source.home)
        ),
    }


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_the_command_bakes_the_direction_of_the_evaluation(models, entry, tmp_path, kind):
    model = models[kind]
    baked = tmp_path / "baked"
    code, printed, _ = entry(
        "tools/bake_steering.py", *model.arguments,
        "--eval", NAME, "--strength", "2", "--to", str(baked),
    )  # fmt: skip
    assert (code, printed) == (0, f"{baked}\n")
    heads = load_file(model.home / NAME / "heads-pairs.safetensors")
    report = json.loads((model.home / NAME / "report.json").read_bytes())
    directions = Directions(heads["theta_LNH"], heads["sigma_LN"])
    shift = unit_shift(directions, report["probe_sets"]["pairs"]["chosen_heads"])
    bake_steering.bake(model.files, shift, 2.0, tmp_path / "expected")
    for file in (tmp_path / "expected").iterdir():
        assert (baked / file.name).read_bytes() == file.read_bytes(), file.name


WORDS = [
    "rope",
    "net",
    "kettle",
    "hammer",
    "soup",
    "lamp",
    "rose",
    "boat",
    "Velmar",
    "seven",
    "Monday",
    "friends",
    "cold",
]
TASK = """
task: hormesis_local
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


def test_the_harness_measures_a_model_unsteered_and_steered(models, entry, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    rows = [
        {"question": "What was mended?", "choices": [f"the {this}", f"the {that}"], "answer": 0}
        for this, that in combinations(WORDS, 2)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.replace("ROWS", str(tmp_path / "rows.jsonl")))
    model = models["folder"]
    command = ["tools/run_lm_eval.py", *model.arguments, "--tasks", "hormesis_local"]
    command += ["--include_path", str(tmp_path)]
    plain = entry(*command)
    steered = entry(*command, "--eval", NAME, "--strengths", "0", "3000")
    files = [
        model.home / "harness-0.json",
        model.home / NAME / "harness-0.json",
        model.home / NAME / "harness-3000.json",
    ]
    assert plain[:2] == (0, f"{files[0]}\n")
    assert steered[:2] == (0, f"{files[1]}\n{files[2]}\n")
    outputs = [json.loads(file.read_bytes()) for file in files]
    assert [(x["model"], x["evaluation"], x["strength"]) for x in outputs] == [
        (str(model.home), None, 0.0),
        (str(model.home), NAME, 0.0),
        (str(model.home), NAME, 3000.0),
    ]
    accuracies = [output["results"]["hormesis_local"]["acc,none"] for output in outputs]
    assert accuracies[0] == accuracies[1] != accuracies[2], accuracies


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "tools/run_lm_eval.py MODEL --tasks x --strengths 0 4",
            "--strengths 0 4: no evaluation says which heads to steer; name an evaluation",
        ),
        (
            "tools/bake_steering.py MODEL --eval eval-none --strength 2 --to TO",
            f"there is no such evaluation of this model; it has {NAME}",
        ),
        (
            "tools/bake_steering.py MODEL --eval ../olmo --strength 2 --to TO",
            f"there is no such evaluation of this model; it has {NAME}",
        ),
        (
            "tools/bake_steering.py --out TO --run ../none --eval eval-x --strength 2 --to TO",
            "the run id '../none' should be a file name",
        ),
        (
            "tools/bake_steering.py --out TO --run none --eval eval-x --strength 2 --to TO",
            "none/record.json: the run is not finished",
        ),
        (
            "tools/bake_steering.py --out TO --model TO --eval eval-x --strength 2 --to TO",
            "config.json: no such file; name a folder",
        ),
    ],
)
def test_a_missing_run_model_or_evaluation_is_an_error_with_a_remedy(
    models, entry, tmp_path, command, message
):
    words = []
    for word in command.split():
        words += (
            models["folder"].arguments if word == "MODEL" else [word.replace("TO", str(tmp_path))]
        )
    code, _, printed = entry(*words)
    assert code == 2 and printed.startswith("error: ") and message in printed


def test_a_changed_folder_is_another_model_without_evaluations(models, entry, finished, tmp_path):
    files = models["folder"].files
    shutil.copytree(files, tmp_path / "olmo")
    (tmp_path / "olmo" / "tokenizer.json").write_text((files / "tokenizer.json").read_text() + " ")
    code, _, printed = entry(
        "tools/bake_steering.py", "--out", finished, "--model", str(tmp_path / "olmo"),
        "--eval", NAME, "--strength", "2", "--to", str(tmp_path / "baked"),
    )  # fmt: skip
    assert code == 2
    assert "no such evaluation of this model; it has none: run eval/evaluate_run.py" in printed


def test_a_shift_of_anything_but_heads_is_not_baked(models, entry, finished, tmp_path):
    mlp = evolve(CONFIG, {"probing.site": "mlp"})
    evaluate(finished, RUN_ID, mlp)
    code, _, printed = entry(
        "tools/bake_steering.py", "--out", finished, "--run", RUN_ID,
        "--eval", Path(eval_uri(finished, mlp)).name, "--strength", "2", "--to",
        str(tmp_path / "baked"),
    )  # fmt: skip
    assert code == 2 and "steers mlp, but only a shift of heads is a bias" in printed
    assert not (tmp_path / "baked").exists()
