"""What an evaluation found steers the model it was found in, a run or any folder: baked, and under the harness."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_finished_run import RUN_ID

from data_prep.core.records import digest
from data_prep.core.settings import evolve
from eval.config import EvalConfig, GenerationConfig, ProbingConfig, ScoringConfig, SteeringConfig
from eval.eval_report import eval_uri
from eval.model.loaded_model import folder_home
from eval.pipeline import evaluate, evaluate_folder
from eval.probing.directions import Directions, unit_shift
from eval.tools import bake_steering
from training.run_record import run_uri

CONFIG = EvalConfig(
    probing=ProbingConfig(rows="synthetic:probes?documents=120", n_permutations=0),
    generation=GenerationConfig(
        prompts="synthetic:clean?documents=2", max_new_tokens=2, n_prompts=1
    ),
    scoring=ScoringConfig(fluency_model=""),
    steering=SteeringConfig(strengths=(0.0, 8.0), top_heads=3),
)
NAME = f"eval-{digest(CONFIG)[:8]}"


@pytest.fixture(scope="module")
def models(finished, tmp_path_factory):
    """A run and a folder, both evaluated: [how a command names it, its files, its home]."""
    folder = tmp_path_factory.mktemp("model") / "olmo"
    export = Path(run_uri(finished, RUN_ID)) / "export"
    shutil.copytree(export, folder)
    evaluate(finished, RUN_ID, CONFIG)
    evaluate_folder(finished, folder, CONFIG)
    return {
        "run": (["--out", finished, "--run", RUN_ID], export, Path(run_uri(finished, RUN_ID))),
        "folder": (
            ["--out", finished, "--model", str(folder)],
            folder,
            Path(folder_home(finished, folder)),
        ),
    }


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_the_command_line_bakes_what_the_evaluation_found(models, entry, tmp_path, kind):
    which, files, home = models[kind]
    code, printed, _ = entry(
        "tools/bake_steering.py",
        *which,
        "--eval",
        NAME,
        "--strength",
        "2",
        "--to",
        str(tmp_path / "baked"),
    )
    assert (code, printed) == (0, f"{tmp_path}/baked\n")
    heads, report = (
        load_file(home / NAME / "heads.safetensors"),
        json.loads((home / NAME / "report.json").read_bytes()),
    )
    shift = unit_shift(Directions(heads["theta_LNH"], heads["sigma_LN"]), report["chosen_heads"])
    bake_steering.bake(files, shift, 2.0, tmp_path / "expected")
    for file in (tmp_path / "expected").iterdir():
        assert (tmp_path / "baked" / file.name).read_bytes() == file.read_bytes(), file.name


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


def test_the_harness_measures_a_folder_unsteered_or_with_what_its_evaluation_found(
    models, entry, tmp_path
):
    pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")
    rows = [
        {"question": f"What is {i}?", "choices": ["the sea", "the boat"], "answer": 0}
        for i in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(TASK.replace("ROWS", str(tmp_path / "rows.jsonl")))
    which, _, home = models["folder"]
    command = [
        "tools/run_lm_eval.py",
        *which,
        "--tasks",
        "hormesis_local",
        "--include_path",
        str(tmp_path),
    ]
    plain, steered = entry(*command), entry(*command, "--eval", NAME, "--strengths", "0", "300")
    files = [
        home / "harness-0.json",
        home / NAME / "harness-0.json",
        home / NAME / "harness-300.json",
    ]
    assert plain[:2] == (0, f"{files[0]}\n") and steered[:2] == (0, f"{files[1]}\n{files[2]}\n")
    read = [json.loads(file.read_bytes()) for file in files]
    assert [(one["model"], one["evaluation"], one["strength"]) for one in read] == [
        (str(home), None, 0.0), (str(home), NAME, 0.0), (str(home), NAME, 300.0)
    ]  # fmt: skip
    results = [one["results"]["hormesis_local"]["acc,none"] for one in read]
    assert results[0] == results[1] != results[2], results


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "tools/run_lm_eval.py MODEL --tasks x --strengths 0 4",
            "--strengths 0 4: no evaluation says which heads to steer; name one",
        ),
        (
            "tools/bake_steering.py MODEL --eval eval-none --strength 2 --to TO",
            f"there is no such evaluation of this model; it has {NAME}",
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
def test_a_name_that_names_nothing_is_told_with_what_there_is(
    models, entry, tmp_path, command, message
):
    which, *_ = models["folder"]
    words = [
        word
        for part in command.split()
        for word in (which if part == "MODEL" else [part.replace("TO", str(tmp_path))])
    ]
    code, _, told = entry(*words)
    assert code == 1 and told.startswith("error: ") and message in told


def test_a_folder_that_has_changed_is_another_model_and_one_at_another_site_is_not_baked(
    models, entry, finished, tmp_path
):
    _, folder, _ = models["folder"]
    shutil.copytree(folder, tmp_path / "olmo")
    (tmp_path / "olmo" / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    rest = ["--eval", NAME, "--strength", "2", "--to", str(tmp_path / "baked")]
    code, _, told = entry(
        "tools/bake_steering.py", "--out", finished, "--model", str(tmp_path / "olmo"), *rest
    )
    assert (
        code == 1
        and "no such evaluation of this model; it has none: run eval/evaluate_run.py" in told
    )
    mlp = evolve(CONFIG, {"probing.site": "mlp"})
    evaluate(finished, RUN_ID, mlp)
    rest[1] = Path(eval_uri(finished, mlp)).name
    code, _, told = entry("bake_steering.py", "--out", finished, "--run", RUN_ID, *rest)
    assert (
        code == 1
        and "it steers mlp; only a shift of heads is a bias" in told
        and not (tmp_path / "baked").exists()
    )
