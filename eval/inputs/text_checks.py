"""check the texts that an evaluation reads from files, before a model is trained for it"""

from eval.config import EvalConfig
from eval.inputs import benchmarks, labelled_sets, prompts, text_rows


def check_files(config: EvalConfig) -> None:
    """Read the labelled sets, prompts and benchmarks that are in files, and log what is left out.

    Raises what the evaluation would raise days later, after the training: ConfigurationError for
    labels, questions and sets that cannot be used. Held-out text is not there yet.
    """
    summaries = [*labelled_sets.read(config.probing, config.seed).summaries]
    for benchmark in benchmarks.read_all(config.capability, config.seed).values():
        summaries.append(benchmark.summary)
    if config.probing.rows != prompts.HELD_OUT:
        summaries.append(prompts.read_probe_rows(config.probing, config.seed).summary)
    if config.generation.prompts != prompts.HELD_OUT:
        prompts.read_prompts(config.generation.prompts, config.seed)
    for summary in summaries:
        text_rows.log(summary)
