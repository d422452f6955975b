"""what the evaluations read of each set of texts, and what was left out, a line per set"""

from collections.abc import Callable, Iterator, Sequence

from eval.eval_report import TextSet
from launch.report.analysis.evaluation_view import EvaluationView
from launch.report.text import display_names

SETTINGS = {
    "eval.probes": "probe rows",
    "eval.probing.transfer": "transfer",
    "eval.probing.attributes": "other attribute",
    "eval.prompts": "prompts",
    "eval.benchmarks": "benchmark",
    "eval.capability.held_out": "held-out text",
}


def lines(reports: Sequence[EvaluationView], masked: Callable[[str], str]) -> list[str]:
    """A line for each set of texts; one line where all runs read the same.

    masked: masks slurs in the words of a label field.
    """
    found = [_line(texts, masked) for report in reports for texts in report.texts]
    found += [line for report in reports for line in _short_questions(report)]
    return list(dict.fromkeys(found))


def words(reports: Sequence[EvaluationView]) -> list[str]:
    """The words of label fields that the lines quote."""
    return [word for report in reports for texts in report.texts for word in texts.other_words]


def kind(setting: str) -> str:
    """What a set is for, and its name if it has one: `prompts rtp` of eval.prompts.rtp."""
    if setting in SETTINGS:
        return SETTINGS[setting]
    group, _, name = setting.rpartition(".")
    return f"{SETTINGS[group]} {name}"


def _short_questions(report: EvaluationView) -> Iterator[str]:
    """A line for each benchmark whose examples the model had no room for."""
    for name, facts in report.benchmarks.items():
        if facts.n_fewer_shots:
            cut = f", and {facts.n_cut:,} lost their own beginning" if facts.n_cut else ""
            yield (
                f"benchmark {name}: {facts.n_fewer_shots:,} of {facts.n_questions:,} questions "
                f"stood behind fewer than {facts.n_shots} examples, because the model has too few "
                f"positions{cut}"
            )


def _line(texts: TextSet, masked: Callable[[str], str]) -> str:
    is_benchmark = texts.setting.startswith("eval.benchmarks.")
    shown = display_names.benchmark_source if is_benchmark else display_names.source
    name = shown(texts.uri)
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in texts.left_out.items())
    n_left_out = sum(texts.left_out.values())
    left_out = f"{n_left_out:,} left out ({reasons})" if n_left_out else "none left out"
    benign = ", ".join(f"“{masked(word)}” {n:,} rows" for word, n in texts.other_words.items())
    return (
        f"{kind(texts.setting)}, {name}: {texts.n_read:,} rows read, "
        f"{left_out}, {texts.n_used:,} used" + (f"; benign by the rule: {benign}" if benign else "")
    )
