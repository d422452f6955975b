"""which texts are probed and which are continued: labelled rows and prompts from files, or from
held-out documents

Both come from a document URI (`#text=field&label=field`, read like any corpus) or from "held_out",
the documents of the clean and the toxic stream that were never trained on, half from each. No text
is both a probe row and a prompt. A row's id is the digest of its text, and which rows are taken
depends on the ids and the seed, not on the order of the file.

`eval.probing.n_rows` and `eval.generation.n_prompts` are at most: where there are fewer, all are taken, and every
number carries its n.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from data_prep.config import StreamName
from data_prep.core import keyed_random
from data_prep.core.errors import ConfigurationError
from data_prep.sources import corpus_reader
from eval.config import EvalConfig
from eval.inputs.label_rules import Rule, parse

HELD_OUT = "held_out"
PROBE_TOKENS = (
    16,
    32,
)  # a held-out snippet's length is drawn from this range, ends included; so is a prompt's
PROMPT_TOKENS = (8, 12)

ReadDocuments = Callable[
    [StreamName, int], list[np.ndarray]
]  # (stream, limit) → ids of its first held-out documents


class Labelled(NamedTuple):
    """A probe row; label 1 is toxic. Rows of one group belong together, e.g. the halves of a pair."""

    id: str
    text: str
    label: int
    group: str


class Prompt(NamedTuple):
    id: str
    text: str


R = TypeVar("R", Labelled, Prompt)


class Rows(NamedTuple):
    """What one evaluation reads. label_rule says in words what made a probe row toxic."""

    probes: list[Labelled]
    label_rule: str
    prompts: list[Prompt]


def choose(
    config: EvalConfig, documents: ReadDocuments, decode: Callable[[np.ndarray], str]
) -> Rows:
    """The probe rows and prompts that `config` asks for; `documents` and `decode` are used only for
    "held_out".
    """
    held_out = (
        _held_out(config, documents, decode)
        if HELD_OUT in (config.probing.rows, config.generation.prompts)
        else Rows([], "", [])
    )
    if config.probing.rows == HELD_OUT:
        probes, label_rule = (
            held_out.probes,
            "stream of origin (held-out text; toxic = from the toxic stream)",
        )
    else:
        probes, label_rule = (
            labelled(config.probing.rows, config, config.probing.group_field),
            rule(config.probing.rows, config).name,
        )
    taken = {row.id for row in probes}
    found = (
        held_out.prompts
        if config.generation.prompts == HELD_OUT
        else _sampled(config.generation.prompts, config.seed)
    )
    prompts = [prompt for prompt in found if prompt.id not in taken][: config.generation.n_prompts]
    if not prompts:
        raise ConfigurationError(
            f"eval.generation.prompts {config.generation.prompts!r} gives no prompt ({len(found)} texts before those that are probe rows); "
            "name more documents, lower eval.probing.n_rows or raise data.held_out_ratio"
        )
    return Rows(probes, label_rule, prompts)


def text_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def labelled(uri: str, config: EvalConfig, group_field: str = "") -> list[Labelled]:
    """At most eval.probing.n_rows rows of a labelled set, groups whole."""
    of_set, labels = rule(uri, config), dict[str, Labelled]()
    for place, document in _documents(uri, of_set.fields[0]):
        if document.text.strip() and text_id(document.text) not in labels:
            where, name = f"{uri}, {place}", text_id(document.text)
            group = _group(document, group_field, where) if group_field else name
            labels[name] = Labelled(
                name, document.text, of_set.label(document.fields, where), group
            )
    rows = sorted(labels.values())
    order = keyed_random.shuffled(
        [row.group for row in rows], "probes", config.seed
    )  # groups are taken whole, but for the last
    return [rows[i] for i in order[: config.probing.n_rows]]


def rule(uri: str, config: EvalConfig) -> Rule:
    """What makes a row of this set toxic (label_rules.py)."""
    return parse(
        corpus_reader.expand([uri])[0].label_field or "label", config.probing.label_threshold
    )


def _group(document: corpus_reader.Document, name: str, where: str) -> str:
    if name not in document.fields:
        raise ConfigurationError(
            f"{where}: there is no field {name!r} to group rows by, the row has {', '.join(sorted(document.fields))}; "
            'correct eval.probing.group_field, or set it to ""'
        )
    return str(document.fields[name])


def _sampled(uri: str, seed: int) -> list[Prompt]:
    texts = {
        text_id(text): text
        for _, document in _documents(uri)
        if (text := _with_lines(document.text)).strip()
    }
    return _first([Prompt(*item) for item in texts.items()], "prompts", seed)


def _with_lines(text: str) -> str:
    r"""ToxiGen's prompts are lists of examples, "- a\n- b\n-", with the two characters \n where
    their lines end: those end here.
    """
    return text.replace("\\n", "\n") if text.startswith("- ") and "\\n-" in text else text


def _documents(
    uri: str, label_field: str | None = None
) -> Iterator[tuple[str, corpus_reader.Document]]:
    """(place, document) of every row."""
    for source in corpus_reader.expand([uri]):
        for document in corpus_reader.read(source._replace(label_field=label_field)):
            yield f"{source.uri} row {document.row}", document


def _first(rows: list[R], purpose: str, seed: int) -> list[R]:
    return [rows[i] for i in keyed_random.shuffled([row.id for row in rows], purpose, seed)]


def _held_out(
    config: EvalConfig, documents: ReadDocuments, decode: Callable[[np.ndarray], str]
) -> Rows:
    """Snippets of probes and prompts from disjoint documents, alike for both streams: equal counts,
    equal lengths in law.
    """
    probes: list[Labelled] = []
    prompts: list[Prompt] = []
    asked = (
        (config.probing.rows, config.probing.n_rows),
        (config.generation.prompts, config.generation.n_prompts),
    )
    wanted = [-(-n // 2) if uri == HELD_OUT else 0 for uri, n in asked]
    long_enough = {
        stream: _long_documents(documents, stream, sum(wanted)) for stream in ("clean", "toxic")
    }
    n_documents = min(sum(wanted), *map(len, long_enough.values()))
    n_prompts = n_documents * wanted[1] // sum(wanted)  # short of documents, both shrink alike
    for label, stream in enumerate(("clean", "toxic")):
        prompts += [
            Prompt(*_snippet(ids, PROMPT_TOKENS, decode)) for ids in long_enough[stream][:n_prompts]
        ]
        snippets = [
            _snippet(ids, PROBE_TOKENS, decode)
            for ids in long_enough[stream][n_prompts:n_documents]
        ]
        probes += [Labelled(name, text, label, name) for name, text in snippets]
    unique_probes, unique_prompts = (
        {row.id: row for row in probes},
        {row.id: row for row in prompts},
    )
    return Rows(
        _first(list(unique_probes.values()), "probes", config.seed)[: config.probing.n_rows],
        "",
        _first(list(unique_prompts.values()), "prompts", config.seed),
    )


def _long_documents(documents: ReadDocuments, stream: StreamName, wanted: int) -> list[np.ndarray]:
    """The first `wanted` held-out documents as long as any snippet; the stream is shuffled, so the
    first are a sample.
    """
    limit = wanted
    while True:
        read = documents(stream, limit)
        found = [ids for ids in read if len(ids) >= PROBE_TOKENS[1]]
        if len(found) >= wanted or len(read) < limit:
            return found[:wanted]
        limit *= 2


def _snippet(
    ids: np.ndarray, n_tokens: tuple[int, int], decode: Callable[[np.ndarray], str]
) -> tuple[str, str]:
    """(id, text) of the document's first tokens; how many is drawn by its own key. A cut character
    is dropped.
    """
    low, high = n_tokens
    n = low + keyed_random.key("snippet", low, high, *ids[:high].tolist()) % (high - low + 1)
    text = decode(ids[:n]).rstrip("�")
    return text_id(text), text


def labels_of(rows: Sequence[Labelled]) -> list[int]:
    return [row.label for row in rows]
