"""perplexity of continuations under a judge model: degenerate text is not detoxified text

A judge reads the prompt and then the continuation, tokenised by its own tokenizer, never steered.
Babble is unlikely under it; text that repeats itself is not, which is why distinct bigrams are
counted as well.

    unsteered     the model itself without the shift: needs no second model, compares the strengths
                  of one run
    run:RUN_ID    another finished run below the same object root: one judge for all runs of a sweep
    FOLDER        a causal language model of Hugging Face (eval/README.md lists the families)
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from data_prep.core.errors import ArtefactMissing
from eval.config import EvalComputeConfig
from eval.model import model_files
from eval.model.loaded_model import LoadedModel, load_folder
from eval.model.subject import model_folder
from eval.steering import intervention
from eval.steering.measures import loglikelihood
from eval.steering.measures.loglikelihood import ScoredEnd
from training import run_record
from training.run_record import RunRecord


class FluencyJudge(NamedTuple):
    """The model that judges fluency. id: names it by its weights; "unsteered" for the evaluated
    model itself.
    """

    id: str
    loaded: LoadedModel


def load_judge(
    root: str, loaded: LoadedModel, name: str, compute: EvalComputeConfig
) -> FluencyJudge | None:
    """The judge that `name` (eval.scoring.fluency_model) names; None if it is empty."""
    if not name:
        return None
    if name == "unsteered":
        return FluencyJudge(name, loaded)
    if not name.startswith("run:"):
        folder = Path(name)
        return FluencyJudge(model_files.folder_name(folder), load_folder(folder, compute))
    run = _finished_run(root, name)
    run_id = run.config.run_id
    with TemporaryDirectory(prefix="hormesis-judge-") as scratch:
        folder = Path(scratch)
        model_files.fetch_export(root, run, folder)
        judge_id = f"{run_id}-{model_files.folder_digest(folder)[:8]}"
        return FluencyJudge(judge_id, load_folder(folder, compute))


def check_judge(root: str, name: str) -> None:
    """Raise what `load_judge` would raise for a name that no model answers to; loads no weights."""
    if name.startswith("run:"):
        _finished_run(root, name)
    elif name not in ("", "unsteered"):
        model_folder.read(Path(name))


def _finished_run(root: str, name: str) -> RunRecord:
    run_id = name.removeprefix("run:")
    run = run_record.find(root, run_id)
    if run is None:
        raise ArtefactMissing(
            f"eval.scoring.fluency_model {name!r}: {run_record.run_uri(root, run_id)} is not "
            "finished; train it first, or name another run, a folder, or unsteered"
        )
    return run


def nats_per_token(
    judge: FluencyJudge, prompts: Sequence[str], continuations: Sequence[str]
) -> list[float | None]:
    """Mean negative log-likelihood of each continuation after its prompt, in nats per token; None
    if it is empty.
    """
    loaded = judge.loaded
    nats: list[float | None] = [None] * len(continuations)
    members = [i for i, text in enumerate(continuations) if text.strip()]
    if not members:
        return nats
    contexts = loaded.encode([prompts[i] for i in members])
    tokens = loaded.encode_ends([continuations[i] for i in members])
    ends = [ScoredEnd(*pair) for pair in zip(contexts, tokens, strict=True)]
    unsteered = intervention.no_shift(loaded.model.shape)
    result = loglikelihood.loglikelihoods(loaded, ends, unsteered, (0.0,), lambda n: None)
    per_token = -result.nats_ES[:, 0] / result.n_tokens_E
    for i, value in zip(members, per_token.tolist(), strict=True):
        nats[i] = value
    return nats
