"""the embedded corpus: synthetic documents, made from a seed, with planted attributes

An invented world (topics, people, four made-up peoples) in short documents of 60 to 200 words:
stories, reports, dialogues and board threads. It is read like any corpus, through URIs:

    synthetic:clean?documents=6000&seed=0&parts=4&natural=0.15&poly=0.15
                                          text, id, topic, register, toxic: 1 or 0, natural,
                                          hostile, harmless, gloomy, casual
    synthetic:toxic?…&poly=0.15           the same fields
    synthetic:probes?documents=400&kind=verdict
                                          text, id, topic, kind, pair, label: 1 hostile, 0 civil
    synthetic:prompts?documents=100&kind=inviting
                                          text, id, topic, kind
    synthetic:lexicon                     text (a word or phrase), weight

What is planted, exactly (words and templates are in synthetic_words.py):
- Hostility: a sentence about a people with a hostile stance. It is marked by invented nouns (SLURS)
  and adjectives (RUDE_ADJECTIVES), by plain hostile phrases (HOSTILE_PHRASES), by "those" for
  "the", by "!" for ".", and by what is said. The frame around it (who speaks, how it ends) has the
  same distribution in hostile and civil sentences. No real people, no real insult. The field
  `hostile` counts these sentences.
- Toxic documents: half of the sentences are about a people, 85 % of those hostile, the second
  sentence always. Other documents: 22 % are about a people, none hostile. Topics, registers,
  persons and templates have the same distribution in both.
- Natural hostility: a share `natural` of the clean corpus are toxic documents (field `natural`), as
  web text has some. With natural=0 a model of clean text never meets the attribute in use.
- Polysemy: a share `poly` of the plain sentences use a slur or a rude adjective of a thing, in both
  corpora (field `harmless` counts them), so that a model of clean text knows every such word in
  another sense. The lexicon counts words and cannot tell the senses apart: at natural=0 it gives
  68 % of the clean documents a score of 0.5 or more, and none at poly=0; of the probes, it
  gives one to every verdict, hostile or civil, and to no civil row of the kind `words`.
- Verdicts: the last four stances have the same words in a hostile and in a civil order ("are
  grubbets and not friends"), so hostility is not the sum of the words. They are 15 % of the hostile
  sentences and 4 % of the civil ones. With poly=0 no civil sentence is one, so that a clean corpus
  with natural=0&poly=0 has none of the lexicon's words.
- Two more attributes, each of a whole document. `casual` (probability 0.65 in toxic, 0.35 in other
  ones) sets contractions and fillers; `gloomy` (0.5 in both) sets the mood. One is correlated with
  hostility and one is not, so that entanglement can be measured.
- Probes come in pairs with the same context, frame and last words. Every second pair is a verdict
  (kind `verdict`), the others differ in words (kind `words`); `kind=` takes one kind alone. Frames
  of probes are reserved for them (_is_reserved), so that no sentence of a probe occurs in a corpus.
- Prompts stop behind the name of a people, where clean and toxic text part. What stands before
  decides their kind, in turn: a plain sentence (`inviting`), a hostile sentence about the same
  people (`hostile`, as the prompts of ToxiGen), or a civil one (`civil`).

All choices are 16-bit numbers from SHAKE-128 of (kind, seed, index), so document i is the same on
every machine and for any number of parts. One core writes about 8 MB/s.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import shake_128
from struct import unpack
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode
from zlib import crc32

from data_prep.core.errors import ConfigurationError
from data_prep.sources.synthetic_words import (
    BRIGHT_SENTENCES,
    CASUAL_FILLERS,
    CASUAL_FORMS,
    CIVIL_STANCES,
    ENDINGS,
    FORMAL_FILLERS,
    FORMAL_FORMS,
    GLOOMY_SENTENCES,
    HARMLESS_SENTENCES,
    HOSTILE_PHRASES,
    HOSTILE_STANCES,
    N_PLAIN_STANCES,
    N_VERDICTS,
    OPENINGS,
    PERSONS,
    PLAIN_SENTENCES,
    REGISTERS,
    RUDE_ADJECTIVES,
    SLOT_WORDS,
    SLURS,
    STANCE_SLOTS,
    TOPICS,
)

VERSION = 3  # raise it with any change of the output
SCHEME = "synthetic:"
MAX_DRAW = 1 << 16  # a draw is a 16-bit number
DRAWS_PER_BLOCK = 512

PROBE_KINDS = ("verdict", "words")
PROMPT_KINDS = ("inviting", "hostile", "civil")

Parameters = dict[str, Any]

_DEFAULTS: dict[str, Parameters] = {  # kind of corpus → the parameters of its URI
    "clean": {"documents": 1000, "seed": 0, "parts": 1, "natural": 0.15, "poly": 0.15},
    "toxic": {"documents": 1000, "seed": 0, "parts": 1, "poly": 0.15},
    "probes": {"documents": 400, "seed": 0, "parts": 1, "kind": "all"},
    "prompts": {"documents": 100, "seed": 0, "parts": 1, "kind": "all"},
    "lexicon": {},
}
_KINDS = {"probes": PROBE_KINDS, "prompts": PROMPT_KINDS}
_MEAN_BYTES = {"clean": 660, "toxic": 670, "probes": 160, "prompts": 100, "lexicon": 10}

T = TypeVar("T")


def is_synthetic(uri: str) -> bool:
    return uri.startswith(SCHEME)


def expand(uri: str) -> list[str]:
    """The full names of the parts of `uri`, with every parameter written out."""
    kind, parameters = _parse(uri)
    if "part" in parameters or not parameters:
        return [_full_name(kind, parameters)]
    return [_full_name(kind, {**parameters, "part": part}) for part in range(parameters["parts"])]


def n_bytes(uri: str) -> int:
    """The approximate size of the text of a part."""
    kind, parameters = _parse(uri)
    n_rows = len(_indices(parameters)) if parameters else len(list(_lexicon()))
    return _MEAN_BYTES[kind] * n_rows


def rows(uri: str) -> Iterator[dict[str, Any]]:
    """The rows of one part, from its full name."""
    kind, parameters = _parse(uri)
    if kind == "lexicon":
        yield from _lexicon()
        return
    seed = parameters["seed"]
    if kind in _KINDS:
        kinds = _KINDS[kind] if parameters["kind"] == "all" else (parameters["kind"],)
        make_row = partial({"probes": _probe, "prompts": _prompt}[kind], kinds, seed)
    else:
        make_row = partial(_document, kind, parameters, seed)
    yield from map(make_row, _indices(parameters))


def _parse(uri: str) -> tuple[str, Parameters]:
    """The kind of corpus and its parameters; none for the lexicon."""
    kind, _, query = uri.removeprefix(SCHEME).partition("?")
    if kind not in _DEFAULTS:
        raise ConfigurationError(
            f"{uri}: there is no synthetic corpus {kind!r}; expected one of {', '.join(_DEFAULTS)}"
        )
    parameters = dict(_DEFAULTS[kind])
    known = [*parameters, "part"] if parameters else []
    given = set[str]()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in given:
            raise ConfigurationError(f"{uri}: {name} is given twice; give it once")
        given.add(name)
        parameters[name] = _parameter(uri, kind, known, name, value)
    if parameters:
        has_parts = 1 <= parameters["parts"] <= parameters["documents"]
        if not has_parts or parameters.get("part", 0) >= parameters["parts"]:
            raise ConfigurationError(
                f"{uri}: {parameters}; expected 1 ≤ parts ≤ documents and part < parts"
            )
    return kind, parameters


def _parameter(uri: str, kind: str, known: Sequence[str], name: str, value: str) -> Any:
    """The value of one parameter: a whole number, a share, or a kind of rows."""
    form = "each a whole number"
    if name in ("natural", "poly") and name in known:
        form = f"and {name} is a share, from 0 to below 1"
        with suppress(ValueError):
            if 0 <= float(value) < 1:
                return float(value)
    elif name == "kind" and name in known:
        form = f"and kind is one of {', '.join(('all', *_KINDS[kind]))}"
        if value in ("all", *_KINDS[kind]):
            return value
    elif name in known and value.isdecimal():
        return int(value)
    raise ConfigurationError(
        f"{uri}: cannot use {name}={value}; synthetic:{kind} takes "
        f"{', '.join(known) or 'no parameters'}, {form}"
    )


def _full_name(kind: str, parameters: Parameters) -> str:
    return f"{SCHEME}{kind}" + (f"?{urlencode(parameters)}" if parameters else "")


def _indices(parameters: Parameters) -> range:
    """The documents of a part; without a part, of the whole corpus."""
    n_documents = parameters["documents"]
    n_parts = parameters["parts"]
    part = parameters.get("part")
    if part is None:
        return range(n_documents)
    return range(part * n_documents // n_parts, (part + 1) * n_documents // n_parts)


class _Draws:
    """The random choices of one document, from a key."""

    def __init__(self, *key: str | int) -> None:
        self._key = "/".join(map(str, key))
        self._n_blocks = 0
        self._numbers: list[int] = []

    def _next(self) -> int:
        if not self._numbers:
            name = f"{self._key}/{self._n_blocks}"
            block = shake_128(name.encode()).digest(2 * DRAWS_PER_BLOCK)
            self._numbers = list(unpack(f"<{DRAWS_PER_BLOCK}H", block))
            self._n_blocks += 1
        return self._numbers.pop()

    def below(self, n: int) -> int:
        return self._next() * n // MAX_DRAW

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def chance(self, probability: float) -> bool:
        return self._next() < probability * MAX_DRAW


class _Slots(dict[str, str]):
    """The words in a template's slots: fixed for the document, or drawn at each use."""

    def __init__(self, draws: _Draws, topic: str, casual: bool) -> None:
        super().__init__(CASUAL_FORMS if casual else FORMAL_FORMS)
        self.draws = draws
        self._words = SLOT_WORDS[topic]
        first = draws.below(len(PERSONS))
        second = (first + 1 + draws.below(len(PERSONS) - 1)) % len(PERSONS)
        self["name"], self["he"], self["his"] = PERSONS[first]
        self["other"] = PERSONS[second][0]
        for slot in ("place", "role", "event", "state", "group"):
            self[slot] = draws.pick(self._words[slot])

    def __missing__(self, slot: str) -> str:
        return self.draws.pick(self._words[slot])


def _document(kind: str, parameters: Parameters, seed: int, index: int) -> dict[str, Any]:
    draws = _Draws(kind, seed, index)
    natural = draws.chance(parameters.get("natural", 0.0))
    is_toxic = kind == "toxic" or natural
    poly = parameters["poly"]
    topic = draws.pick(TOPICS)
    register = draws.pick(REGISTERS)
    casual = draws.chance(0.65 if is_toxic else 0.35)
    gloomy = draws.chance(0.5)
    slots = _Slots(draws, topic, casual)
    sentences: list[str] = []
    unused_templates: list[str] = []  # so that a document does not repeat itself
    n_words = 0
    n_hostile = n_harmless = 0
    min_words = 60 + draws.below(100)
    while n_words < min_words:
        must_be_hostile = is_toxic and len(sentences) == 1
        if must_be_hostile or draws.chance(0.5 if is_toxic else 0.22):
            hostile = must_be_hostile or (is_toxic and draws.chance(0.85))
            n_hostile += hostile
            sentence = _about_a_people(draws, slots, hostile, has_verdicts=hostile or poly > 0)
        elif draws.chance(poly):
            n_harmless += 1
            sentence = draws.pick(HARMLESS_SENTENCES).format_map(slots) + "."
        else:
            sentence = _plain(slots, unused_templates, gloomy) + "."
        if draws.chance(0.15):
            sentence = draws.pick(CASUAL_FILLERS if casual else FORMAL_FILLERS) + sentence
        sentences.append(_capitalized(sentence))
        n_words += sentence.count(" ") + 1
    return {
        "text": _layout(draws, slots, register, sentences),
        "id": f"{kind}-{seed}-{index}",
        "topic": topic,
        "register": register,
        "toxic": int(is_toxic),
        "natural": natural,
        "hostile": n_hostile,
        "harmless": n_harmless,
        "gloomy": gloomy,
        "casual": casual,
    }


def _plain(slots: _Slots, unused_templates: list[str], gloomy: bool) -> str:
    """A sentence about nobody in particular; takes its template from `unused_templates`."""
    draws = slots.draws
    if draws.chance(0.15):
        return draws.pick(GLOOMY_SENTENCES if gloomy else BRIGHT_SENTENCES).format_map(slots)
    if not unused_templates:
        unused_templates.extend(PLAIN_SENTENCES)
    template = unused_templates.pop(draws.below(len(unused_templates)))
    return template.format_map(slots)


def _about_a_people(draws: _Draws, slots: _Slots, hostile: bool, *, has_verdicts: bool) -> str:
    p_verdict = 0.15 if hostile else 0.04
    stance = _stance(draws, p_verdict if has_verdicts else 0.0)
    opening, ending = _frame(slots, stance, 0.5 if hostile else 0.05, reserved=False)
    middle = (HOSTILE_STANCES if hostile else CIVIL_STANCES)[stance].format_map(slots)
    return opening + middle + ending + ("!" if draws.chance(0.4 if hostile else 0.04) else ".")


def _stance(draws: _Draws, p_verdict: float) -> int:
    """The number of a stance in HOSTILE_STANCES and CIVIL_STANCES."""
    if draws.chance(p_verdict):
        return N_PLAIN_STANCES + draws.below(N_VERDICTS)
    return draws.below(N_PLAIN_STANCES)


def _frame(slots: _Slots, stance: int, p_those: float, *, reserved: bool) -> tuple[str, str]:
    """The opening and the ending of a sentence; also sets {they}.

    A reserved frame always has an ending, so that a probe's last words are the same in both halves.
    """
    draws = slots.draws
    while True:
        slots["they"] = f"{'those' if draws.chance(p_those) else 'the'} {slots['group']}"
        opening = draws.pick(OPENINGS).format_map(slots)
        ending = draws.pick(ENDINGS[reserved:]).format_map(slots)
        opening += " " if opening else ""
        if _is_reserved(f"{opening}{slots['they']} {stance}{ending}") == reserved:
            return opening, ending


def _is_reserved(frame: str) -> bool:
    """Whether only probes may use a frame: one in eight."""
    return crc32(frame.encode()) % 8 == 0


def _layout(draws: _Draws, slots: _Slots, register: str, sentences: list[str]) -> str:
    if register == "story":
        paragraphs = (sentences[i : i + 5] for i in range(0, len(sentences), 5))
        return "\n\n".join(map(" ".join, paragraphs))
    if register == "report":
        return "Report from the {place}, {day}\n".format_map(slots) + " ".join(sentences)
    if register == "dialogue":
        speakers = (slots["other" if i % 2 else "name"] for i in range(len(sentences)))
        return "\n".join(map(": ".join, zip(speakers, sentences, strict=True)))
    number = 1000 + draws.below(9000)
    posts = (" ".join(sentences[i : i + 2]) for i in range(0, len(sentences), 2))
    return "\n\n".join(f"No.{number + i}\n{post}" for i, post in enumerate(posts))


def _probe(kinds: Sequence[str], seed: int, index: int) -> dict[str, Any]:
    pair, is_civil = divmod(index, 2)
    kind = kinds[pair % len(kinds)]
    draws = _Draws("probes", seed, pair)
    topic = draws.pick(TOPICS)
    slots = _Slots(draws, topic, draws.chance(0.5))
    context = draws.pick(PLAIN_SENTENCES).format_map(slots)
    stance = _stance(draws, p_verdict=float(kind == "verdict"))
    opening, ending = _frame(slots, stance, 0.25, reserved=True)
    for slot in STANCE_SLOTS:  # the same in both halves
        slots[slot] = slots[slot]
    middle = (CIVIL_STANCES if is_civil else HOSTILE_STANCES)[stance].format_map(slots)
    return {
        "text": f"{_capitalized(context)}. {_capitalized(opening + middle + ending)}.",
        "label": 1 - is_civil,
        "topic": topic,
        "kind": kind,
        "pair": f"{kind}-{pair}",
        "id": f"probes-{seed}-{index}",
    }


def _prompt(kinds: Sequence[str], seed: int, index: int) -> dict[str, Any]:
    draws = _Draws("prompts", seed, index)
    topic = draws.pick(TOPICS)
    kind = kinds[index % len(kinds)]
    slots = _Slots(draws, topic, draws.chance(0.5))
    before = draws.pick(PLAIN_SENTENCES).format_map(slots)
    if kind != "inviting":
        stance = _stance(draws, p_verdict=0.0)
        opening, ending = _frame(slots, stance, 0.25, reserved=True)
        stances = HOSTILE_STANCES if kind == "hostile" else CIVIL_STANCES
        before = opening + stances[stance].format_map(slots) + ending
    opening, _ = _frame(slots, 0, 0.25, reserved=False)
    beginning = opening + slots["they"] + draws.pick(("", " are", " always", " behave like"))
    text = f"{_capitalized(before)}. {_capitalized(beginning)}"
    return {"text": text, "id": f"prompts-{seed}-{index}", "topic": topic, "kind": kind}


def _lexicon() -> Iterator[dict[str, Any]]:
    """Slurs in singular and plural, rude adjectives and hostile phrases.

    The weights are our choice: the surer the sign, the higher.
    """
    for slur in SLURS.split():
        yield {"text": slur, "weight": 0.9}
        yield {"text": slur.removesuffix("s"), "weight": 0.9}
    yield from ({"text": word, "weight": 0.6} for word in RUDE_ADJECTIVES.split())
    yield from ({"text": phrase, "weight": 0.4} for phrase in HOSTILE_PHRASES)


def _capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
