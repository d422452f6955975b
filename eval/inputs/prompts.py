"""probe rows and prompts of an evaluation, from files or from held-out documents

Both come from a document URI or from "held_out": the documents of the clean and the toxic stream
that were never trained on, half from each. No text is both a probe row and a prompt.

`eval.probing.n_rows` and `eval.generation.n_prompts` are upper limits: where there are fewer texts,
all are taken, and every number in the report carries its n.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from data_prep.config import StreamName
from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.config import GenerationConfig, ProbingConfig
from eval.eval_report import TextSet
from eval.inputs import labelled_rows, text_rows
from eval.inputs.labelled_rows import LabelledRow, LabelledSet
from eval.inputs.text_rows import OneOfEach, Reason, RowCounts, text_id, text_key

PROBE_ROWS, PROMPTS = "eval.probing.rows", "eval.generation.prompts"
HELD_OUT = "held_out"
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
    """The probe rows and prompts of one evaluation. label_rule says in words which rows are
    toxic; summaries say what was left out of both.
    """

    probe_rows: list[LabelledRow]
    label_rule: str
    prompts: list[Prompt]
    summaries: tuple[TextSet, ...]


class PromptSet(NamedTuple):
    """All prompts of a set, and what was left out."""

    prompts: list[Prompt]
    counts: RowCounts


class HeldOutSource(NamedTuple):
    """Where held-out snippets come from: ids of the first documents of a stream, and the
    tokenizer's decoder.
    """

    read_documents: Callable[[StreamName, int], list[np.ndarray]]
    decode: Callable[[np.ndarray], str]


R = TypeVar("R", LabelledRow, Prompt)


def choose_texts(
    probing: ProbingConfig, generation: GenerationConfig, seed: int, held_out: HeldOutSource
) -> EvaluationTexts:
    """The probe rows and prompts that the settings name; `held_out` is read for "held_out" only."""
    probes, prompts = _held_out_snippets(probing, generation, seed, held_out)
    if probing.rows != HELD_OUT:
        probes = read_probe_rows(probing, seed)
    if generation.prompts != HELD_OUT:
        prompts = read_prompts(generation.prompts, seed)
    probe_texts = {text_key(row.text) for row in probes.rows}
    unprobed = [prompt for prompt in prompts.prompts if text_key(prompt.text) not in probe_texts]
    prompts.counts.leave_out(Reason.PROBE_ROW, len(prompts.prompts) - len(unprobed))
    if not unprobed:
        raise ConfigurationError(
            f"{PROMPTS} {generation.prompts!r} gives no prompt ({len(prompts.prompts)} texts "
            f"before those that are probe rows; {prompts.counts.in_words}); name more documents, "
            "lower eval.probing.n_rows or raise data.held_out_ratio"
        )
    used = unprobed[: generation.n_prompts]
    of_prompts = prompts.counts.text_set(PROMPTS, generation.prompts, len(used))
    return EvaluationTexts(probes.rows, probes.rule, used, (probes.summary, of_prompts))


def read_probe_rows(probing: ProbingConfig, seed: int) -> LabelledSet:
    """The probe rows of a file; ConfigurationError unless both classes are among them."""
    probes = labelled_rows.read_labelled_rows(
        probing.rows, probing, seed, setting=PROBE_ROWS, group_field=probing.group_field
    )
    labelled_rows.check_both_classes(probes, "rows")
    return probes


def read_prompts(uri: str, seed: int) -> PromptSet:
    """All prompts of a file, each text once."""
    counts = RowCounts()
    distinct: OneOfEach[Prompt] = OneOfEach()
    for source in corpus_reader.expand([uri]):
        for _, document in text_rows.read_rows(source, counts):
            text = _with_line_ends(document.text)
            distinct.add(text_key(text), None, Prompt(text_id(text), text))
    return PromptSet(_shuffled(distinct.items(counts, uri), "prompts", seed), counts)


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
    probing: ProbingConfig, generation: GenerationConfig, seed: int, source: HeldOutSource
) -> tuple[LabelledSet, PromptSet]:
    """Snippets for probes and prompts from disjoint documents, the same for both streams: equal
    counts, and lengths from one distribution. Nothing is read for what does not come from held-out
    text.
    """
    n_probe_documents = -(-probing.n_rows // 2) if probing.rows == HELD_OUT else 0
    n_prompt_documents = -(-generation.n_prompts // 2) if generation.prompts == HELD_OUT else 0
    wanted = n_probe_documents + n_prompt_documents
    of_rows, of_prompts = RowCounts(), RowCounts()
    if not wanted:
        none = LabelledSet([], HELD_OUT_RULE, of_rows.text_set(PROBE_ROWS, HELD_OUT, 0))
        return none, PromptSet([], of_prompts)
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
    distinct = probe_rows.items(of_rows, PROBE_ROWS, max_contradictory_ratio=1.0)
    rows = _shuffled(distinct, "probes", seed)[: probing.n_rows]
    return (
        LabelledSet(rows, HELD_OUT_RULE, of_rows.text_set(PROBE_ROWS, HELD_OUT, len(rows))),
        PromptSet(_shuffled(prompts.items(of_prompts, PROMPTS), "prompts", seed), of_prompts),
    )


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
