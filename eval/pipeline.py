"""one run → one report: probe, choose heads, steer, score, measure the cost

    probe rows ─▶ probe_heads.py: which heads know, θ and σ ─▶ the shift, and controls that should not work
    each shift ─▶ measure_strengths.py: continuations, cross-entropy, answers ─▶ summarize_strengths.py: numbers and items

The report is written last: while it is missing the evaluation is not done. Repeating it goes on
from the parts that are (resume.py) and measures the same, for every draw is keyed by what it is
for. Nothing here knows what a corpus holds; it sees rows.

Shapes: R rows, L layer, N head, V vocab.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from data_prep.core import storage, telemetry
from data_prep.core.records import digest
from data_prep.scorers import registry
from eval.config import EvalConfig
from eval.eval_report import FORMAT_VERSION, Controlled, EvalReport, Sample, eval_uri, find
from eval.inputs import prompts
from eval.model.loaded_model import Subject, finished_run, folder_name, load_folder, load_run
from eval.probing import entanglement, labelled_sets, logistic_probes, logit_lens, transfer
from eval.probing import probe_heads as probing
from eval.probing.probe_heads import ProbedHeads
from eval.resume import Parts
from eval.stats import intervals
from eval.stats.estimate import Estimate
from eval.steering import (
    intervention,
    measure_strengths,
    multiple_choice,
    per_item_results,
    perplexity,
    score_cache,
    summarize_strengths,
)
from eval.steering.measure_strengths import Asked, Continuation, Shift
from eval.steering.multiple_choice import Question
from eval.steering.per_item_results import Item
from eval.steering.perplexity import Judge
from training import run_record

SHOWN_PROMPTS = 12


class Evaluated(NamedTuple):
    """Which model it is. toxic_ratio: as planned, of a model that is no run as its user says."""

    id: str
    toxic_ratio: float
    realised_toxic_ratio: float
    seed: int


class Inputs(NamedTuple):
    """The texts that an evaluation reads, checked: probe rows with their split, prompts, other
    labelled sets, benchmarks.
    """

    rows: prompts.Rows
    split: logistic_probes.RowSplit
    labelled_sets: labelled_sets.LabelledSets
    benchmarks: dict[str, list[Question]]


def evaluate(root: str, run_id: str, config: EvalConfig) -> EvalReport:
    """Evaluate the finished run `run_id` below the object root, or return the report it has.

    Raises ArtefactMissing if the run is not finished, ArtefactCorrupt if its files are not what its
    record says.
    """
    run_uri = run_record.run_uri(root, run_id)
    if (done := find(run_uri, config)) is not None:
        return done
    run = finished_run(root, run_id)
    which = Evaluated(run_id, run.config.toxic_ratio, run.realised_toxic_ratio, run.config.seed)
    return _evaluate(lambda: load_run(root, run, config), which, config, root, run_uri)


def evaluate_folder(
    root: str, folder: Path, config: EvalConfig, *, toxic_ratio: float = 0.0
) -> EvalReport:
    """Evaluate any folder with a Hugging Face OLMo into `root`/models/NAME-DIGEST/, or return the
    report that is there.

    toxic_ratio: the share of toxic text it was trained on, 0 where none was added on purpose.
    """
    name = folder_name(folder)
    model_uri = storage.join(root, "models", name)
    if (done := find(model_uri, config)) is not None:
        return done
    which = Evaluated(name, toxic_ratio, toxic_ratio, config.seed)
    return _evaluate(lambda: load_folder(folder, config), which, config, root, model_uri)


def _evaluate(
    load: Callable[[], Subject], which: Evaluated, config: EvalConfig, root: str, home: str
) -> EvalReport:
    """home: the run's or model's folder."""
    started = time.perf_counter()
    scorer, folder = (
        score_cache.kept(registry.load(config.scoring.scorer), home),
        eval_uri(home, config),
    )
    load = cache(load)
    inputs = _read(config, load)
    subject = load()
    judge = perplexity.load(root, subject, config)
    report = _measure(subject, inputs, which, config, scorer, judge, folder, started)
    storage.save(report, storage.join(folder, "report.json"))
    Parts(folder, "").forget()
    telemetry.emit("hormesis_evaluations", 1, run=which.id)
    return report


def _read(config: EvalConfig, load: Callable[[], Subject]) -> Inputs:
    """Files first, for what is wrong with them should be told before a model is at work; held-out
    text is the subject's.
    """
    sets = labelled_sets.read(config)
    benchmarks = {name: multiple_choice.read(name, config) for name in config.capability.benchmarks}
    rows = prompts.choose(
        config,
        lambda *asked: load().held_out_documents(*asked),
        lambda ids: load().tokenizer.decode(ids),
    )
    split = logistic_probes.split_rows(
        [row.group for row in rows.probes], prompts.labels_of(rows.probes), config.seed
    )
    seen = {rows.probes[i].id for i in split.train + split.validation}
    return Inputs(rows, split, labelled_sets.without_seen_rows(sets, seen), benchmarks)


def _measure(
    subject: Subject,
    inputs: Inputs,
    which: Evaluated,
    config: EvalConfig,
    scorer: registry.Scorer,
    judge: Judge | None,
    folder: str,
    started: float,
) -> EvalReport:
    parts, rows = Parts(folder, subject.weights), inputs.rows
    asked = Asked(
        rows.prompts,
        subject.held_out_sequences(config.capability.cross_entropy_sequences),
        inputs.benchmarks,
        judge,
    )
    strengths, positive = (
        config.steering.strengths,
        tuple(strength for strength in config.steering.strengths if strength),
    )
    n_units = len(rows.probes) + asked.n_rows(config) * (
        len(strengths) + len(config.steering.controls) * len(positive)
    )
    with closing(telemetry.progress(n_units, f"evaluate {which.id}: probes", "rows")) as bar:
        heads = probing.probe(subject, rows.probes, inputs.split, config, parts, bar.update)
        entangled = entanglement.measure_entanglement(
            subject, heads, inputs.labelled_sets.attributes, config, parts
        )
        transfers = transfer.measure_transfer(
            subject, heads, inputs.labelled_sets.transfer, config, parts
        )
        bar.set_description(f"evaluate {which.id}: steering")
        shift = Shift("steered", heads.shift_LD, strengths)
        steered = measure_strengths.measure(
            subject, asked, shift, config, scorer, parts, bar.update
        )
        controls = {}
        for name in config.steering.controls:
            bar.set_description(f"evaluate {which.id}: {name}")
            shift = Shift(
                name,
                intervention.control_shift(name, heads.directions, heads.selected, config.seed),
                positive,
            )
            controls[name] = measure_strengths.measure(
                subject, asked, shift, config, scorer, parts, bar.update
            )
    storage.write(storage.join(folder, "heads.safetensors"), probing.to_bytes(heads))
    storage.write(
        storage.join(folder, "generations.parquet"),
        summarize_strengths.generations_file(steered.continuations),
    )
    per_item_results.write([*summarize_strengths.items(steered), *_probe_items(heads)], folder)
    toxic_share = float(heads.test_labels_R.double().mean())
    n_toxic = sum(prompts.labels_of(rows.probes))
    return EvalReport(
        format_version=FORMAT_VERSION,
        run_id=which.id,
        toxic_ratio=which.toxic_ratio,
        realised_toxic_ratio=which.realised_toxic_ratio,
        seed=which.seed,
        config=config,
        scorer_id=scorer.id,
        prompts_digest=digest(sorted(rows.prompts)),
        fluency_id=judge.id if judge else "",
        label_rule=rows.label_rule,
        n_probe_rows={name: len(part) for name, part in heads.split._asdict().items()}
        | {"toxic": n_toxic},
        probe_accuracy=intervals.bootstrap_mean(
            heads.correct_RLN.flatten(1).double().mean(1).tolist(), "ratio", seed=config.seed
        ),
        best_head_accuracy=_best_head(heads, config),
        majority_accuracy=max(toxic_share, 1 - toxic_share),
        head_accuracy=_table(heads.correct_RLN.double().mean(0)),
        head_auroc=_table(heads.auroc_LN),
        head_calibration_error=_table(heads.calibration_error_LN),
        probe_null=heads.null,
        transfers=transfers,
        entanglement=entangled,
        lens=logit_lens.read_lenses(subject, heads, _listed(subject, scorer), config.seed)
        if config.probing.site == "heads"
        else (),
        chosen_heads=tuple(heads.selected),
        steered=summarize_strengths.steered(steered, config),
        controls=tuple(
            Controlled(control=name, steered=summarize_strengths.steered(of, config))
            for name, of in controls.items()
        ),
        samples=_samples(rows.prompts, steered.continuations, config),
        seconds=time.perf_counter() - started,
    )


def _probe_items(heads: ProbedHeads) -> list[Item]:
    shares = heads.correct_RLN.flatten(1).double().mean(1).tolist()
    return [
        Item("probe_accuracy", name, 0.0, share)
        for name, share in zip(heads.test_ids, shares, strict=True)
    ]


def _listed(subject: Subject, scorer: registry.Scorer) -> np.ndarray:
    """Which ids of the tokenizer are toxic on their own, by the scorer; a costly one is not asked
    about 50,000 words.
    """
    by_word = registry.load("profanity") if scorer.costly else scorer
    found = by_word.score(
        [subject.tokenizer.decode([i]).strip() for i in range(subject.tokenizer.n_ids)]
    )
    return np.array([(score or 0.0) >= summarize_strengths.TOXIC_SCORE for score in found])


def _table(values_LN: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values_LN.tolist()))


def _best_head(heads: ProbedHeads, config: EvalConfig) -> Estimate:
    """Test accuracy of the head that is best on validation rows."""
    layer, head = heads.selected[0]
    correct_R = heads.correct_RLN[:, layer, head]
    return intervals.wilson(int(correct_R.sum()), len(correct_R), "ratio")


def _samples(
    asked: list[prompts.Prompt], rows: list[Continuation], config: EvalConfig
) -> tuple[Sample, ...]:
    """The first sample of the first prompts, at every strength."""
    texts = {(row.prompt_id, row.strength): row.text for row in rows if row.sample == 0}
    return tuple(
        Sample(
            prompt_id=prompt.id,
            prompt=prompt.text,
            continuations=tuple(texts[prompt.id, s] for s in config.steering.strengths),
        )
        for prompt in asked[:SHOWN_PROMPTS]
    )
