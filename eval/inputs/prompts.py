"""probe rows and prompts of an evaluation, from files or from held-out documents

Both come from a document URI or from "held_out": the documents of the clean and the toxic stream
that were never trained on, half from each. No text is both a probe row and a prompt.

`eval.probing.n_rows` and `eval.generation.n_prompts` are upper limits: where there are fewer texts,
all are taken, and every number in the report carries its n.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from data_prep.config import StreamName
from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from eval.config import GenerationConfig, ProbingConfig
from eval.inputs import labelled_rows
from eval.inputs.labelled_rows import LabelledRow, text_id

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
    toxic.
    """

    probe_rows: list[LabelledRow]
    label_rule: str
    prompts: list[Prompt]


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
    probe_rows, prompts = _held_out_snippets(probing, generation, seed, held_out)
    label_rule = HELD_OUT_RULE
    if probing.rows != HELD_OUT:
        probe_rows = labelled_rows.read_labelled_rows(
            probing.rows, probing, seed, group_field=probing.group_field
        )
        label_rule = labelled_rows.label_rule(probing.rows, probing).name
    if generation.prompts != HELD_OUT:
        prompts = _read_prompts(generation.prompts, seed)
    probe_ids = {row.id for row in probe_rows}
    unprobed = [prompt for prompt in prompts if prompt.id not in probe_ids]
    if not unprobed:
        raise ConfigurationError(
            f"eval.generation.prompts {generation.prompts!r} gives no prompt ({len(prompts)} texts "
            "before those that are probe rows); name more documents, lower eval.probing.n_rows or "
            "raise data.held_out_ratio"
        )
    return EvaluationTexts(probe_rows, label_rule, unprobed[: generation.n_prompts])


def _read_prompts(uri: str, seed: int) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    for _, document in labelled_rows.read_documents(uri):
        text = _with_line_ends(document.text)
        if text.strip():
            prompts[text_id(text)] = Prompt(text_id(text), text)
    return _shuffled(list(prompts.values()), "prompts", seed)


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
) -> tuple[list[LabelledRow], list[Prompt]]:
    """Snippets for probes and prompts from disjoint documents, the same for both streams: equal
    counts, and lengths from one distribution. Nothing is read for what does not come from held-out
    text.
    """
    n_probe_documents = -(-probing.n_rows // 2) if probing.rows == HELD_OUT else 0
    n_prompt_documents = -(-generation.n_prompts // 2) if generation.prompts == HELD_OUT else 0
    wanted = n_probe_documents + n_prompt_documents
    if not wanted:
        return [], []
    documents = [_long_documents(source, stream, wanted) for stream in ("clean", "toxic")]
    n_documents = min(wanted, *map(len, documents))
    n_prompts = n_documents * n_prompt_documents // wanted  # short of documents, both shrink alike
    probe_rows: dict[str, LabelledRow] = {}
    prompts: dict[str, Prompt] = {}
    for label, of_stream in enumerate(documents):
        for ids in of_stream[:n_prompts]:
            prompt = Prompt(*_snippet(ids, PROMPT_TOKENS, source))
            prompts[prompt.id] = prompt
        for ids in of_stream[n_prompts:n_documents]:
            name, text = _snippet(ids, PROBE_TOKENS, source)
            probe_rows[name] = LabelledRow(name, text, label, name)
    return (
        _shuffled(list(probe_rows.values()), "probes", seed)[: probing.n_rows],
        _shuffled(list(prompts.values()), "prompts", seed),
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


def _snippet(ids: np.ndarray, n_tokens: tuple[int, int], source: HeldOutSource) -> tuple[str, str]:
    """(id, text) of a document's first tokens; their number is drawn by a key of its own. A
    character that is cut in two is dropped.
    """
    low, high = n_tokens
    n = low + keyed_random.key("snippet", low, high, *ids[:high].tolist()) % (high - low + 1)
    text = source.decode(ids[:n]).rstrip("�")
    return text_id(text), text
