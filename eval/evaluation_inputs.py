"""inputs of an evaluation: all texts that its settings name, read and checked

`read` is what an evaluation does first. `check` does it before any model is trained, and also loads
the scorer and looks at the other models and files, so that a wrong setting costs no training.
"""

from typing import NamedTuple

import numpy as np

from data_prep.config import StreamName
from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from data_prep.core.records import digest
from data_prep.scorers import load_scorer
from eval.config import EvalConfig
from eval.inputs import benchmarks, held_out_text, labelled_sets, prompts, text_rows
from eval.inputs.benchmarks import Question
from eval.inputs.labelled_rows import labels_of
from eval.inputs.labelled_sets import LabelledSets
from eval.inputs.prompts import EvaluationTexts, HeldOutSource
from eval.inputs.text_rows import text_key
from eval.probing import logistic_probes
from eval.probing.logistic_probes import RowSplit
from eval.steering import perplexity

SAMPLE_TEXT = "The ferry leaves at noon."  # scored to see that the scorer works


class EvaluationInputs(NamedTuple):
    """All texts that an evaluation reads, checked; split divides the probe rows. The summaries of
    `texts` are those of all sets.
    """

    texts: EvaluationTexts
    split: RowSplit
    labelled_sets: LabelledSets
    benchmarks: dict[str, list[Question]]

    @property
    def digest(self) -> str:
        """What an interrupted evaluation of other texts measured is not resumed."""
        return digest(
            self.texts.probe_rows, self.texts.prompts, self.labelled_sets, self.benchmarks
        )


def read(config: EvalConfig, held_out: HeldOutSource) -> EvaluationInputs:
    """Read and check all texts. Files come first, so that what is wrong with them is reported
    before `held_out` needs a model's tokenizer.
    """
    sets = labelled_sets.read(config.probing, config.seed)
    read_benchmarks = benchmarks.read_all(config.capability, config.seed)
    texts = prompts.choose_texts(config.probing, config.generation, config.seed, held_out)
    of_benchmarks = [benchmark.summary for benchmark in read_benchmarks.values()]
    for summary in (*texts.summaries, *sets.summaries, *of_benchmarks):
        text_rows.log(summary)
    rows = texts.probe_rows
    split = logistic_probes.split_rows([row.group for row in rows], labels_of(rows), config.seed)
    seen = {text_key(rows[i].text) for i in split.train + split.validation}
    sets = labelled_sets.without_seen_rows(sets, seen)
    texts = texts._replace(summaries=(*texts.summaries, *sets.summaries, *of_benchmarks))
    questions = {name: benchmark.questions for name, benchmark in read_benchmarks.items()}
    return EvaluationInputs(texts, split, sets, questions)


def check(root: str, config: EvalConfig) -> None:
    """Read every file that the settings name and load the scorer, before a model exists.

    Held-out documents are not there yet: stand-ins take their place, so a stream with too few of
    them is found by the evaluation only. Raises a HormesisError for what the evaluation would
    refuse.
    """
    scorer = load_scorer.load(config.scoring.scorer)
    if scorer.score([SAMPLE_TEXT]) == [None]:
        raise ConfigurationError(
            f"eval.scoring.scorer {config.scoring.scorer} gives no score to an ordinary sentence; "
            "check its labels or its service, or choose another scorer"
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
