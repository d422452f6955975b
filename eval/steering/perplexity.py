"""how likely continuations are under another model: degenerate text is not detoxified text

A judge reads the prompt and then the continuation, token by token of its own, never steered. Babble
surprises it; text that repeats itself does not, which is why distinct bigrams are counted beside
it.

    unsteered     the model itself without the shift: costs no second model, and compares the strengths of one run
    run:RUN_ID    another finished run below the same object root: one judge for all runs of a sweep
    FOLDER        any Hugging Face OLMo
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from data_prep.core.errors import ArtefactMissing
from data_prep.core.settings import evolve
from eval.config import EvalConfig
from eval.model.loaded_model import Subject, fetch_export, folder_digest, folder_name, load_folder
from eval.steering import loglikelihood
from training import run_record


class Judge(NamedTuple):
    """id: which model it is, by its weights; of the model itself "unsteered"."""

    id: str
    subject: Subject


def load(root: str, subject: Subject, config: EvalConfig) -> Judge | None:
    """The judge that eval.scoring.fluency_model names; None where it names none."""
    name, alone = config.scoring.fluency_model, evolve(config, {"capability.held_out": ()})
    if name in ("", "unsteered"):
        return Judge(name, subject) if name else None
    if not name.startswith("run:"):
        return Judge(folder_name(Path(name)), load_folder(Path(name), alone))
    run_id = name.removeprefix("run:")
    run = run_record.find(root, run_id)
    if run is None:
        raise ArtefactMissing(
            f"eval.scoring.fluency_model {name!r}: {run_record.run_uri(root, run_id)} is not finished; train it first, or name "
            "another run, a folder, or unsteered"
        )
    with TemporaryDirectory(prefix="hormesis-judge-") as scratch:
        fetch_export(root, run, Path(scratch))
        return Judge(
            f"{run_id}-{folder_digest(Path(scratch))[:8]}", load_folder(Path(scratch), alone)
        )


def surprises(
    judge: Judge, prompts: Sequence[str], continuations: Sequence[str]
) -> list[float | None]:
    """Nats per token of each continuation after its prompt; None where it is empty."""
    model = judge.subject.model
    whole = [i for i, text in enumerate(continuations) if text.strip()]
    if not whole:
        return [None] * len(continuations)
    contexts = judge.subject.encode([prompts[i] for i in whole])
    ends = judge.subject.encode([continuations[i] for i in whole])
    rows = [
        loglikelihood.row(context, end, model) for context, end in zip(contexts, ends, strict=True)
    ]
    no_shift_LD = torch.zeros(model.config.n_layers, model.config.d_model)
    found = loglikelihood.likelihoods(
        model, rows, no_shift_LD, "heads", judge.subject.batch, lambda n: None
    )
    result: list[float | None] = [None] * len(continuations)
    for i, row, of in zip(whole, rows, found, strict=True):
        result[i] = -of.log / row.n_end
    return result
