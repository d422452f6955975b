"""probe rows and prompts of an evaluation, from files or from held-out documents

Both come from a document URI or from "held_out": the documents of the clean and the toxic stream
that were never trained on, half from each. No text is both a probe row and a prompt.

`eval.probing.n_rows` and `eval.generation.n_prompts` are upper limits of each set: where there are
fewer texts, all are taken, and every number in the report carries its n.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np

from data_prep.config import StreamName
from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.config import HELD_OUT, EvalConfig
from eval.eval_report import TextSet
from eval.inputs import labelled_rows, labelled_sets, text_rows
from eval.inputs.labelled_rows import LabelledRow, LabelledSet
from eval.inputs.text_rows import OneOfEach, Reason, RowCounts, text_id, text_key

# the settings that name the sets
PROBES, PROMPTS, TEST_ROWS = "eval.probes", "eval.prompts", "eval.probing.test_rows"
HELD_OUT_RULE = "stream of origin (held-out text; toxic = from the toxic stream)"

# The length of a held-out snippet in tokens is drawn from these ranges, ends included. A probe row
# needs enough context to be toxic or not; a prompt leaves room for its continuation.
PROBE_TOKENS = (16, 32)
PROMPT_TOKENS = (8, 12)


class Prompt(NamedTuple):
    """A text to be continued."""

    id: str
    text: str


class EvaluationTexts(NamedTuple):
    """The probe sets and prompt sets of one evaluation, by name; each summary says what was left
    out.
    """

    probe_sets: dict[str, LabelledSet]
    prompt_sets: dict[str, "PromptSet"]


class PromptSet(NamedTuple):
    """The prompts of a set, and what was left out."""

    prompts: list[Prompt]
    summary: TextSet


class _AllPrompts(NamedTuple):
    """All prompts of a set, before some are chosen."""

    prompts: list[Prompt]
    counts: RowCounts


class HeldOutSource(NamedTuple):
    """Where held-out snippets come from: ids of the first documents of a stream, and the
    tokenizer's decoder.
    """

    read_documents: Callable[[StreamName, int], list[np.ndarray]]
    decode: Callable[[np.ndarray], str]


R = TypeVar("R", LabelledRow, Prompt)


def choose_texts(config: EvalConfig, held_out: HeldOutSource) -> EvaluationTexts:
    """The probe sets and prompt sets that the settings name; `held_out` is read for "held_out"
    only.
    """
    for unknown in sorted(config.probing.test_rows.keys() - config.probes.keys()):
        raise ConfigurationError(
            f"{TEST_ROWS} names the probe set {unknown!r}; expected a set of {PROBES}: "
            f"{', '.join(config.probes)}"
        )
    held_out_probes, held_out_prompts = _held_out_snippets(config, held_out)
    probe_sets = {
        name: held_out_probes if uri == HELD_OUT else read_probe_rows(name, config)
        for name, uri in sorted(config.probes.items())
    }
    probe_texts = {text_key(row.text) for probes in probe_sets.values() for row in probes.rows}
    prompt_sets = {}
    for name, uri in sorted(config.prompts.items()):
        found = held_out_prompts if uri == HELD_OUT else _read_prompts(uri, config.seed)
        prompt_sets[name] = _choose(name, found, probe_texts, config)
    return EvaluationTexts(probe_sets, prompt_sets)


def _choose(name: str, found: _AllPrompts, probe_texts: Set[str], config: EvalConfig) -> PromptSet:
    """The first prompts of a set that are no probe rows."""
    setting, uri = f"{PROMPTS}.{name}", config.prompts[name]
    unprobed = [prompt for prompt in found.prompts if text_key(prompt.text) not in probe_texts]
    found.counts.leave_out(Reason.PROBE_ROW, len(found.prompts) - len(unprobed))
    if not unprobed:
        raise ConfigurationError(
            f"{setting} {uri!r} gives no prompt ({len(found.prompts)} texts before those that are "
            f"probe rows; {found.counts.in_words}); name more documents, lower "
            "eval.probing.n_rows or raise data.held_out_ratio"
        )
    used = unprobed[: config.generation.n_prompts]
    return PromptSet(used, found.counts.text_set(setting, uri, len(used)))


def read_probe_rows(name: str, config: EvalConfig) -> LabelledSet:
    """The rows of a probe set from a file; ConfigurationError unless both classes are among
    them.
    """
    probing = config.probing
    probes = labelled_rows.read_labelled_rows(
        config.probes[name],
        probing,
        config.seed,
        setting=f"{PROBES}.{name}",
        group_field=probing.group_field,
    )
    labelled_rows.check_both_classes(probes, "rows")
    return _with_test_rows(name, probes, config)


def _with_test_rows(name: str, probes: LabelledSet, config: EvalConfig) -> LabelledSet:
    """The set with the rows of its test file at the end, and without those among its own."""
    uri = config.probing.test_rows.get(name)
    if uri is None:
        return probes
    setting = f"{TEST_ROWS}.{name}"
    test = labelled_rows.read_labelled_rows(uri, config.probing, config.seed, setting=setting)
    labelled_rows.check_both_classes(test, "rows")
    without = labelled_sets.without_texts(
        probes, {text_key(row.text) for row in test.rows}, Reason.TEST_ROW
    )
    labelled_rows.check_both_classes(without, "rows that are no test rows")
    return without._replace(rows=[*without.rows, *test.rows], n_test=len(test.rows))


def _read_prompts(uri: str, seed: int) -> _AllPrompts:
    """All prompts of a file, each text once."""
    counts = RowCounts()
    distinct: OneOfEach[Prompt] = OneOfEach()
    for source in corpus_reader.expand([uri]):
        for _, document in text_rows.read_rows(source, counts):
            text = _with_line_ends(document.text)
            distinct.add(text_key(text), None, Prompt(text_id(text), text))
    return _AllPrompts(_shuffled(distinct.items(counts, uri), "prompts", seed), counts)


def _with_line_ends(text: str) -> str:
    r"""ToxiGen's prompts are lists of examples, "- a\n- b\n-", with the two characters \n where a
    line ends; they become line ends here.
    """
    return text.replace("\\n", "\n") if text.startswith("- ") and "\\n-" in text else text


def _shuffled(rows: list[R], purpose: str, seed: int) -> list[R]:
    return [
        rows[i] for i in keyed_random.shuffled_positions([row.id for row in rows], purpose, seed)
    ]


def _held_out_snippets(
    config: EvalConfig, source: HeldOutSource
) -> tuple[LabelledSet, _AllPrompts]:
    """Snippets for probes and prompts from disjoint documents, the same for both streams: equal
    counts, and lengths from one distribution. Nothing is read for what does not come from held-out
    text.
    """
    probes_name, prompts_name = (
        _name_of_held_out(uris) for uris in (config.probes, config.prompts)
    )
    n_probe_documents = -(-config.probing.n_rows // 2) if probes_name else 0
    n_prompt_documents = -(-config.generation.n_prompts // 2) if prompts_name else 0
    wanted = n_probe_documents + n_prompt_documents
    of_rows, of_prompts = RowCounts(), RowCounts()
    setting = f"{PROBES}.{probes_name}"
    if not wanted:
        none = LabelledSet([], HELD_OUT_RULE, of_rows.text_set(setting, HELD_OUT, 0))
        return none, _AllPrompts([], of_prompts)
    documents = [_long_documents(source, stream, wanted) for stream in ("clean", "toxic")]
    n_documents = min(wanted, *map(len, documents))
    n_prompts = n_documents * n_prompt_documents // wanted  # short of documents, both shrink alike
    probe_rows: OneOfEach[LabelledRow] = OneOfEach()
    prompts: OneOfEach[Prompt] = OneOfEach()
    for label, of_stream in enumerate(documents):
        for name, text in _snippets(of_stream[:n_prompts], PROMPT_TOKENS, source, of_prompts):
            prompts.add(text_key(text), None, Prompt(name, text))
        of_probes = of_stream[n_prompts:n_documents]
        for name, text in _snippets(of_probes, PROBE_TOKENS, source, of_rows):
            probe_rows.add(text_key(text), label, LabelledRow(name, text, label, name))
    # beginnings that both streams have say nothing, however many there are
    distinct = probe_rows.items(of_rows, setting, max_contradictory_ratio=1.0)
    rows = _shuffled(distinct, "probes", config.seed)[: config.probing.n_rows]
    shuffled = _shuffled(prompts.items(of_prompts, PROMPTS), "prompts", config.seed)
    return (
        LabelledSet(rows, HELD_OUT_RULE, of_rows.text_set(setting, HELD_OUT, len(rows))),
        _AllPrompts(shuffled, of_prompts),
    )


def _name_of_held_out(uris: Mapping[str, str]) -> str:
    """The name of the set of held-out documents; empty if there is none."""
    return next((name for name, uri in uris.items() if uri == HELD_OUT), "")


def _long_documents(source: HeldOutSource, stream: StreamName, wanted: int) -> list[np.ndarray]:
    """The first `wanted` held-out documents that are as long as the longest snippet. The stream is
    shuffled, so the first documents are a sample.
    """
    limit = wanted
    while True:
        read = source.read_documents(stream, limit)
        long = [ids for ids in read if len(ids) >= PROBE_TOKENS[1]]
        if len(long) >= wanted or len(read) < limit:
            return long[:wanted]
        limit *= 2


def _snippets(
    documents: Sequence[np.ndarray],
    n_tokens: tuple[int, int],
    source: HeldOutSource,
    counts: RowCounts,
) -> Iterator[tuple[str, str]]:
    """(id, text) of each document's first tokens, where there is text."""
    for ids in documents:
        name, text = _snippet(ids, n_tokens, source)
        counts.n_read += 1
        if text.strip():
            yield name, text
        else:
            counts.leave_out(Reason.EMPTY)


def _snippet(ids: np.ndarray, n_tokens: tuple[int, int], source: HeldOutSource) -> tuple[str, str]:
    """(id, text) of a document's first tokens; their number is drawn by a key of its own. A
    character that is cut in two is dropped.
    """
    low, high = n_tokens
    n = low + keyed_random.key("snippet", low, high, *ids[:high].tolist()) % (high - low + 1)
    text = source.decode(ids[:n]).rstrip("�")
    return text_id(text), text
