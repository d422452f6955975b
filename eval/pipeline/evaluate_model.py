"""evaluate one model: probe, select heads, steer, score, measure the cost, report

    probe sets ─▶ probes ─▶ θ, σ of the selected heads ─▶ conditions: plain, prefixed, steered, …
    condition × strength ─▶ continuations and scores, cross-entropy, benchmark answers
    all measurements ─▶ means with intervals ─▶ report.json

The report is written last; while it is missing the evaluation is not done. Measurements are kept
for all evaluations of the model (measurement_store.py): an interrupted one resumes, and one with
other settings measures what is new. The numbers are the same, since every random draw is keyed by
its purpose.
"""

import time
from contextlib import closing
from functools import cache

from data_prep.core import storage, telemetry
from data_prep.scorers import load_scorer
from data_prep.scorers.load_scorer import Scorer
from eval.config import EvalConfig
from eval.eval_report import EvalReport, eval_uri, find
from eval.inputs.prompts import HeldOutSource
from eval.model import model_source
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import MeasurementStore
from eval.model.model_source import ModelSource
from eval.pipeline import evaluation_inputs, report_assembly
from eval.pipeline.evaluation_inputs import EvaluationInputs, ProbeSet
from eval.pipeline.report_assembly import ProbingResults
from eval.probing import attribute_entanglement, baselines, logit_lens, probe_heads, transfer
from eval.steering import conditions, measure_strengths
from eval.steering.measure_strengths import Draws, MeasuredTexts
from eval.steering.measures import expected_toxicity, perplexity, score_cache
from eval.steering.measures.continuations import ContinuationScoring, Continuing
from eval.steering.measures.expected_toxicity import SurvivalPaths
from eval.steering.measures.prompt_draws import PromptDraws


def evaluate(root: str, run_id: str, config: EvalConfig) -> EvalReport:
    """Evaluate the finished run `run_id` below the object root, or return the report it has.

    Raises ArtefactMissing if the run is not finished, ArtefactCorrupt if its files do not match its
    record.
    """
    return evaluate_model(model_source.from_run(root, run_id), config)


def evaluate_model(
    source: ModelSource, config: EvalConfig, *, toxic_ratio: float = 0.0
) -> EvalReport:
    """Evaluate a run, or a folder with a Hugging Face causal LM, or return the report it has.

    toxic_ratio: share of toxic text in the training data of a folder's model, 0 if none was added
    on purpose; that of a run is in its record.
    """
    finished = find(source.home, config)
    if finished is not None:
        return finished
    started = time.perf_counter()
    folder = eval_uri(source.home, config)

    # the texts, the model under evaluation, and the models that judge it
    scorers = tuple(
        score_cache.cached_if_costly(load_scorer.load(form), source.home)
        for form in (config.scoring.scorer, config.scoring.second_scorer)
        if form
    )
    load = cache(lambda: _load(source, config))
    inputs = evaluation_inputs.read(
        config,
        HeldOutSource(
            lambda stream, limit: load().held_out_documents(stream, limit),
            lambda ids: load().tokenizer.decode(ids),
        ),
    )
    loaded = load()
    judge = perplexity.load_judge(source.root, loaded, config.scoring.fluency_model, config.compute)
    scoring = ContinuationScoring(scorers, judge, config.scoring.min_coverage_ratio)
    lexicon = expected_toxicity.find_lexicon(config.expected_toxicity, scorers)
    paths = SurvivalPaths(config.expected_toxicity, lexicon, loaded) if lexicon else None
    texts = _measured_texts(inputs, loaded, config.capability.cross_entropy_sequences)

    # probe, then measure each condition at its strengths
    control_text = source.control_text
    n_draws = config.generation.samples_per_prompt + (paths.n_samples if paths else 0)
    n_rows = _n_rows(inputs, texts.n_rows(n_draws), control_text, config)
    with closing(telemetry.progress(n_rows, f"evaluate {source.name}: probes", "rows")) as bar:
        session = EvalSession(
            loaded=loaded,
            store=MeasurementStore(source.home, loaded.weights_id),
            seed=config.seed,
            advance=bar.update,
        )
        probing = {
            name: _probe(session, probe_set, scorers[0], config)
            for name, probe_set in inputs.probe_sets.items()
        }
        steering = probing[config.steering_probes].heads
        measured = conditions.of_evaluation(session, steering, control_text, config)
        draws = {
            name: Draws(
                PromptDraws(session, prompts, measured, Continuing(config.generation)),
                PromptDraws(session, prompts, measured, paths) if paths else None,
            )
            for name, prompts in texts.prompts.items()
        }
        results = {}
        for condition in measured:
            bar.set_description(f"evaluate {source.name}: {condition.name}")
            results[condition.name] = measure_strengths.measure(
                session, texts, condition, draws, scoring
            )

    # the report is written last: it says that the evaluation is done
    report_assembly.write_measurements(folder, probing, results)
    seconds = time.perf_counter() - started
    header = report_assembly.header(source, loaded, toxic_ratio, scoring, config.seed, seconds)
    report = report_assembly.assemble(header, inputs, probing, results, config)
    storage.save(report, storage.join(folder, "report.json"))
    telemetry.emit("hormesis_evaluations", 1, run=source.name)
    return report


def _load(source: ModelSource, config: EvalConfig) -> LoadedModel:
    loaded = source.load(config.compute)
    return loaded.with_held_out_files(config.capability.held_out, config.seed)


def _measured_texts(
    inputs: EvaluationInputs, loaded: LoadedModel, n_sequences: int
) -> MeasuredTexts:
    sequences = loaded.held_out_sequences(n_sequences)
    return MeasuredTexts(inputs.prompt_sets, sequences, inputs.benchmarks)


def _n_rows(
    inputs: EvaluationInputs, n_rows_per_point: int, control_text: str, config: EvalConfig
) -> int:
    """The number of rows that go through the model, for the progress bar."""
    n_points = sum(
        1 if condition.steering == "none" else len(config.steering.strengths)
        for condition in config.conditions.values()
        if control_text or not condition.control_text
    )
    n_probe_rows = sum(len(probe_set.rows) for probe_set in inputs.probe_sets.values())
    n_models = 1 + config.probing.baselines  # the untrained one
    return n_models * n_probe_rows + n_points * n_rows_per_point


def _probe(
    session: EvalSession, probe_set: ProbeSet, scorer: Scorer, config: EvalConfig
) -> ProbingResults:
    """Probe all heads on one set; then test what the probes and directions mean."""
    heads = probe_heads.probe(
        session, probe_set.rows, probe_set.split, config.probing, config.steering.top_heads
    )
    sets = probe_set.labelled_sets
    entangled = attribute_entanglement.measure_entanglement(
        session, heads, sets.attributes, config.probing
    )
    transfers = transfer.measure_transfer(session, heads, sets.transfer, config.probing)
    lens = ()
    if config.probing.site == "heads":  # at other sites the shift does not pass through W_O
        is_toxic_V = logit_lens.toxic_vocabulary(session.loaded.tokenizer, scorer)
        lens = logit_lens.read_lenses(session.loaded, heads, is_toxic_V, config.seed)
    beside = None
    if config.probing.baselines:
        beside = baselines.measure(
            session, probe_set.rows, probe_set.split, config.probing, config.steering.top_heads
        )
    return ProbingResults(heads, transfers, entangled, lens, beside)
