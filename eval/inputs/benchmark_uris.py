"""benchmark URIs: the form of the questions, and the columns of their rows

FORM:URI#text=question&choices=options&answer=key&subject=subject&shots=5&shots_from=dev.jsonl

text=FIELD          the question, or the statement to judge (default: text)
choices=FIELD       a list of choices, or one column per choice: choices=sol1+sol2
answer=FIELD        the right choice: its number, name, letter or text, or a list with a 1 for
                    the right choice and 0 for the others (default: answer or answerKey)
first=0             the number of the first choice, where answers are numbers in quotes or count
                    from 1
passage=FIELD       a text that the question is about
subject=FIELD       the subject, named in the prompt; accuracy is also averaged over subjects
shots=NUMBER        solved examples before each question, of its subject
shots_from=URI      their file, with the same columns; of a data set of the hub, also its split.
                    Without it they are the first rows, which are not asked then
label=RULE          which statements are toxic (label_rules.py), for detection and pairs
group=FIELD         for pairs: the two rows of a pair have the same value (default: pair)
"""

from typing import NamedTuple, cast, get_args

from data_prep.core.errors import ConfigurationError
from data_prep.core.store import locations
from data_prep.sources import corpus_uris
from data_prep.sources.uri_options import split_options
from eval.config import BenchmarkForm

FORMS: tuple[str, ...] = get_args(BenchmarkForm)
QUESTION_OPTIONS = {
    "choices": "FIELD",
    "answer": "FIELD",
    "first": ("0", "1"),
    "passage": "FIELD",
    "subject": "FIELD",
    "shots": "NUMBER",
    "shots_from": "URI",
}
LABELLED_FORMS = ("detection", "pairs")  # of labelled rows, as probe sets are
OPTIONS = corpus_uris.OPTIONS | QUESTION_OPTIONS
MAX_SHOTS = 100
_LABELLED_OPTIONS = {"detection": "#text= and #label=", "pairs": "#text=, #label= and #group="}


class QuestionColumns(NamedTuple):
    """Which fields of a row hold what; empty ones are found by the names that data sets use.

    choices: one field with a list, or one field per choice. first: the number of the first choice,
    None where it is not stated.
    """

    choices: tuple[str, ...] = ()
    answer: str = ""
    first: int | None = None
    passage: str = ""
    subject: str = ""


class BenchmarkUri(NamedTuple):
    """rows_uri: of the questions, as corpus_reader reads it; shots_uri: of the examples, empty if
    they are the first of the questions. pair: the field that the rows of a pair share.
    """

    form: BenchmarkForm
    rows_uri: str
    columns: QuestionColumns
    n_shots: int
    shots_uri: str
    pair: str


def parse(text: str, where: str) -> BenchmarkUri:
    """The parts of a benchmark's text, whose form eval.config has checked. Raises
    ConfigurationError, which names `where`, for an unknown option, and one that its form has no use
    for.
    """
    form, _, uri = text.partition(":")
    assert form in FORMS, form
    try:
        _, options = split_options(uri, OPTIONS)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    of_other_forms = QUESTION_OPTIONS.keys() if form in LABELLED_FORMS else {"label"}
    needless = sorted(of_other_forms & options.keys())
    if form != "pairs" and "group" in options:
        needless.append("group")
    if needless:
        raise ConfigurationError(
            f"{where}: the form {form} has no use for #{needless[0]}=; "
            + (
                f"expected {_LABELLED_OPTIONS[form]} alone"
                if form in LABELLED_FORMS
                else "name the right choice with #answer=FIELD"
            )
        )
    n_shots = _n_shots(options, where)
    rows_uri = _rows_uri(uri)
    columns = QuestionColumns(
        choices=tuple(options["choices"].split("+")) if "choices" in options else (),
        answer=options.get("answer", ""),
        first=int(options["first"]) if "first" in options else None,
        passage=options.get("passage", ""),
        subject=options.get("subject", ""),
    )
    shots_from = options.get("shots_from", "")
    return BenchmarkUri(
        cast(BenchmarkForm, form),
        rows_uri,
        columns,
        n_shots,
        _shots_uri(rows_uri, shots_from),
        options.get("group", "pair"),
    )


def absolute(text: str) -> str:
    """A benchmark's text whose local files have absolute names."""
    form, found, uri = text.partition(":")
    if not uri:
        return text
    base, found_options, fragment = uri.partition("#")
    items = fragment.split("&")
    for i, item in enumerate(items):
        key, _, value = item.partition("=")
        if key == "shots_from" and value and not _is_split(base, value):
            items[i] = f"{key}={locations.absolute(value)}"
    return f"{form}{found}{locations.absolute(base)}{found_options}{'&'.join(items)}"


def _rows_uri(uri: str) -> str:
    """The URI with the options that corpus_reader knows."""
    base, _, fragment = uri.partition("#")
    items = [item for item in fragment.split("&") if item]
    kept = [item for item in items if item.partition("=")[0] not in QUESTION_OPTIONS]
    return f"{base}#{'&'.join(kept)}" if kept else base


def _n_shots(options: dict[str, str], where: str) -> int:
    text = options.get("shots", "0")
    if not text.isdecimal() or int(text) > MAX_SHOTS:
        raise ConfigurationError(
            f"{where}: #shots={text}; expected the number of solved examples, 0 to {MAX_SHOTS}"
        )
    if "shots_from" in options and not int(text):
        raise ConfigurationError(
            f"{where}: #shots_from= names examples, and #shots= does not say how many stand before "
            "a question; add it, e.g. shots=5"
        )
    return int(text)


def _shots_uri(rows_uri: str, shots_from: str) -> str:
    """The URI of the examples, with the fields of the questions."""
    if not shots_from:
        return ""
    base, found, fragment = rows_uri.partition("#")
    if not _is_split(base, shots_from):
        return shots_from if "#" in shots_from else f"{shots_from}{found}{fragment}"
    name, _, parameters = base.partition("?")
    kept = [item for item in parameters.split("&") if item and not item.startswith("split=")]
    return f"{name}?{'&'.join([*kept, f'split={shots_from}'])}{found}{fragment}"


def _is_split(base: str, shots_from: str) -> bool:
    """Whether examples come from another split of a data set of the hub."""
    return base.startswith("hub:") and shots_from.isidentifier()
