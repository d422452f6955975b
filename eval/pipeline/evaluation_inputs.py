"""inputs of an evaluation: all texts that its settings name, read and checked

`read` is what an evaluation does first. `check` does it before any model is trained, and also loads
the scorer and looks at the other models and files, so that a wrong setting costs no training.
"""

from typing import NamedTuple

import numpy as np

from data_prep.config import StreamName
from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.scorers import load_scorer
from eval.config import EvalConfig
from eval.eval_report import TextSet
from eval.inputs import benchmarks, held_out_text, labelled_sets, prompts, text_rows
from eval.inputs.benchmarks import Benchmark
from eval.inputs.labelled_rows import LabelledRow, LabelledSet, labels_of
from eval.inputs.labelled_sets import LabelledSets
from eval.inputs.prompts import HeldOutSource, Prompt
from eval.inputs.text_rows import text_key
from eval.probing import row_split
from eval.probing.row_split import RowSplit
from eval.steering.measures import perplexity

SAMPLE_TEXT = "The ferry leaves at noon."  # scored to see that the scorer works


class ProbeSet(NamedTuple):
    """The rows of one probe set, their split, and the other labelled sets without the rows that
    its probes have seen.
    """

    rows: list[LabelledRow]
    label_rule: str
    split: RowSplit
    labelled_sets: LabelledSets


class EvaluationInputs(NamedTuple):
    """All texts that an evaluation reads, checked, by name of their set; summaries say what was
    left out of each.
    """

    probe_sets: dict[str, ProbeSet]
    prompt_sets: dict[str, list[Prompt]]
    benchmarks: dict[str, Benchmark]
    summaries: tuple[TextSet, ...]


def read(config: EvalConfig, held_out: HeldOutSource) -> EvaluationInputs:
    """Read and check all texts. Files come first, so that what is wrong with them is reported
    before `held_out` needs a model's tokenizer.
    """
    sets = labelled_sets.read(config.probing, config.seed)
    read_benchmarks = benchmarks.read_all(config)
    texts = prompts.choose_texts(config, held_out)
    probe_sets = {
        name: _split(probes, sets, config.seed) for name, probes in texts.probe_sets.items()
    }
    summaries = (
        *(probes.summary for probes in texts.probe_sets.values()),
        *(of_set.summary for of_set in texts.prompt_sets.values()),
        *probe_sets[config.steering_probes].labelled_sets.summaries,
        *(benchmark.summary for benchmark in read_benchmarks.values()),
    )
    for summary in summaries:
        text_rows.log(summary)
    return EvaluationInputs(
        probe_sets=probe_sets,
        prompt_sets={name: of_set.prompts for name, of_set in texts.prompt_sets.items()},
        benchmarks=read_benchmarks,
        summaries=summaries,
    )


def _split(probes: LabelledSet, sets: LabelledSets, seed: int) -> ProbeSet:
    rows = probes.rows
    split = row_split.split_rows(
        [row.group for row in rows], labels_of(rows), seed, n_test=probes.n_test
    )
    seen = {text_key(rows[i].text) for i in split.train + split.validation}
    return ProbeSet(rows, probes.rule, split, labelled_sets.without_seen_rows(sets, seen))


def check(root: str, config: EvalConfig) -> None:
    """Read every file that the settings name and load the scorer, before a model exists.

    Held-out documents are not there yet: stand-ins take their place, so a stream with too few of
    them is found by the evaluation only. Raises a HormesisError for what the evaluation would
    refuse.
    """
    for name in ("scorer", "second_scorer"):
        form = getattr(config.scoring, name)
        if form and load_scorer.load(form).score([SAMPLE_TEXT]) == [None]:
            raise ConfigurationError(
                f"eval.scoring.{name} {form} gives no score to an ordinary sentence; check its "
                "labels or its service, or choose another scorer"
            )
    perplexity.check_judge(root, config.scoring.fluency_model)
    for named_uri in config.capability.held_out:
        held_out_text.check_readable(named_uri.partition("=")[2])
    read(config, HeldOutSource(_stand_in_documents, lambda ids: " ".join(map(str, ids))))
    telemetry.logger.info("evaluation: all files and models that it names can be read")


def _stand_in_documents(stream: StreamName, limit: int) -> list[np.ndarray]:
    """Distinct documents of numbers, as many as are asked for."""
    n = prompts.PROBE_TOKENS[1]
    first = 0 if stream == "clean" else limit * n
    return list(np.arange(first, first + limit * n).reshape(limit, n))
