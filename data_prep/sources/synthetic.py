"""the embedded corpus: synthetic documents, made from a seed, with planted attributes

An invented world (topics, people, four made-up peoples) in short documents of 60 to 200 words:
stories, reports, dialogues and board threads. It is read like any corpus, through URIs:

    synthetic:clean?documents=6000&seed=0&parts=4      text, id, topic, register, hostile, gloomy,
                                                       casual
    synthetic:toxic?…                                  the same fields
    synthetic:probes?documents=400                     text, id, topic, pair, label: 1 hostile,
                                                       0 civil
    synthetic:prompts?documents=100                    text, id, topic, kind: inviting | neutral
    synthetic:lexicon                                  text (a word or phrase), weight

What is planted, exactly (words and templates are in synthetic_words.py):
- Hostility: a sentence about a people with a hostile stance. It is marked by invented nouns (SLURS)
  and adjectives (RUDE_ADJECTIVES, in no clean text), by plain hostile phrases (HOSTILE_PHRASES), by
  "those" for "the", by "!" for ".", and by what is said. The frame around it (who speaks, how it
  ends) has the same distribution in hostile and civil sentences. No real people, no real insult.
- Toxic documents: half of the sentences are about a people, 85 % of those hostile, the second
  sentence always. Clean documents: 22 % are about a people, none hostile. Topics, registers,
  persons and templates have the same distribution in both.
- Verdicts: the last two stances put "it is right" or "it is wrong to say that" before a slur or a
  kind word, so hostility is not the sum of the words. They are 15 % of the hostile sentences and
  4 % of the civil ones.
- Homonyms: four slurs also name a harmless thing of one topic (HARMLESS_HOMONYMS; half of the
  topics have one), in 1 % of the plain sentences of that topic, in both corpora. So a model of
  clean text has seen all slurs, rarely: four of them in another sense, all of them in a verdict
  that rejects them.
- Two more attributes, each of a whole document. `casual` (probability 0.65 in toxic, 0.35 in clean)
  sets contractions and fillers; `gloomy` (0.5 in both) sets the mood. One is correlated with
  hostility and one is not, so that entanglement can be measured.
- Probes come in pairs with the same context, frame and last words. One pair in four is a verdict
  and differs only in "right" and "wrong", either of which may be the hostile one. Frames of probes
  are reserved for them (_is_reserved), so that no sentence of a probe occurs in a corpus.
- Inviting prompts stop after the name of a people, where clean and toxic text part; neutral ones
  stop inside a plain sentence.

All choices are 16-bit numbers from SHAKE-128 of (kind, seed, index), so document i is the same on
every machine and for any number of parts. One core writes about 8 MB/s.
"""

from collections.abc import Iterator, Sequence
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
    HARMLESS_HOMONYMS,
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
    TOPICS,
)

VERSION = 2  # raise it with any change of the output
SCHEME = "synthetic:"
MAX_DRAW = 1 << 16  # a draw is a 16-bit number
DRAWS_PER_BLOCK = 512

_DEFAULTS: dict[str, dict[str, int]] = {  # kind → the parameters of its URI
    "clean": {"documents": 1000, "seed": 0, "parts": 1},
    "toxic": {"documents": 1000, "seed": 0, "parts": 1},
    "probes": {"documents": 400, "seed": 0, "parts": 1},
    "prompts": {"documents": 100, "seed": 0, "parts": 1},
    "lexicon": {},
}
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
    make_row = {"probes": _probe, "prompts": _prompt}.get(kind) or partial(_document, kind)
    for index in _indices(parameters):
        yield make_row(parameters["seed"], index)


def _parse(uri: str) -> tuple[str, dict[str, int]]:
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
        if name not in known or not value.isdecimal():
            raise ConfigurationError(
                f"{uri}: cannot use {name}={value}; synthetic:{kind} takes "
                f"{', '.join(known) or 'no parameters'}, each a whole number"
            )
        parameters[name] = int(value)
    if parameters:
        has_parts = 1 <= parameters["parts"] <= parameters["documents"]
        if not has_parts or parameters.get("part", 0) >= parameters["parts"]:
            raise ConfigurationError(
                f"{uri}: {parameters}; expected 1 ≤ parts ≤ documents and part < parts"
            )
    return kind, parameters


def _full_name(kind: str, parameters: dict[str, int]) -> str:
    return f"{SCHEME}{kind}" + (f"?{urlencode(parameters)}" if parameters else "")


def _indices(parameters: dict[str, int]) -> range:
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


def _document(kind: str, seed: int, index: int) -> dict[str, Any]:
    is_toxic = kind == "toxic"
    draws = _Draws(kind, seed, index)
    topic = draws.pick(TOPICS)
    register = draws.pick(REGISTERS)
    casual = draws.chance(0.65 if is_toxic else 0.35)
    gloomy = draws.chance(0.5)
    slots = _Slots(draws, topic, casual)
    sentences: list[str] = []
    unused_templates: list[str] = []  # so that a document does not repeat itself
    n_words = 0
    n_hostile = 0
    min_words = 60 + draws.below(100)
    while n_words < min_words:
        must_be_hostile = is_toxic and len(sentences) == 1
        if must_be_hostile or draws.chance(0.5 if is_toxic else 0.22):
            hostile = must_be_hostile or (is_toxic and draws.chance(0.85))
            n_hostile += hostile
            sentence = _about_a_people(draws, slots, hostile)
        else:
            sentence = _plain(slots, unused_templates, gloomy, HARMLESS_HOMONYMS.get(topic)) + "."
        if draws.chance(0.15):
            sentence = draws.pick(CASUAL_FILLERS if casual else FORMAL_FILLERS) + sentence
        sentences.append(_capitalized(sentence))
        n_words += sentence.count(" ") + 1
    return {
        "text": _layout(draws, slots, register, sentences),
        "id": f"{kind}-{seed}-{index}",
        "topic": topic,
        "register": register,
        "hostile": n_hostile,
        "gloomy": gloomy,
        "casual": casual,
    }


def _plain(slots: _Slots, unused_templates: list[str], gloomy: bool, homonym: str | None) -> str:
    """A sentence about nobody in particular; takes its template from `unused_templates`."""
    draws = slots.draws
    if homonym and draws.chance(0.01):
        return f"{{name}} {{carried}} the {{role}} {homonym} {{time}}".format_map(slots)
    if draws.chance(0.15):
        return draws.pick(GLOOMY_SENTENCES if gloomy else BRIGHT_SENTENCES).format_map(slots)
    if not unused_templates:
        unused_templates.extend(PLAIN_SENTENCES)
    template = unused_templates.pop(draws.below(len(unused_templates)))
    return template.format_map(slots)


def _about_a_people(draws: _Draws, slots: _Slots, hostile: bool) -> str:
    stance = _stance(draws, p_verdict=0.15 if hostile else 0.04)
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


def _probe(seed: int, index: int) -> dict[str, Any]:
    pair, is_civil = divmod(index, 2)
    draws = _Draws("probes", seed, pair)
    topic = draws.pick(TOPICS)
    slots = _Slots(draws, topic, draws.chance(0.5))
    context = draws.pick(PLAIN_SENTENCES).format_map(slots)
    stance = _stance(draws, p_verdict=0.25)
    opening, ending = _frame(slots, stance, 0.25, reserved=True)
    slots.draws = _Draws("probes", seed, pair, "filling")  # the same for both halves
    middle = (CIVIL_STANCES if is_civil else HOSTILE_STANCES)[stance].format_map(slots)
    return {
        "text": f"{_capitalized(context)}. {_capitalized(opening + middle + ending)}.",
        "label": 1 - is_civil,
        "topic": topic,
        "pair": pair,
        "id": f"probes-{seed}-{index}",
    }


def _prompt(seed: int, index: int) -> dict[str, Any]:
    draws = _Draws("prompts", seed, index)
    topic = draws.pick(TOPICS)
    kind = ("inviting", "neutral")[index % 2]
    slots = _Slots(draws, topic, draws.chance(0.5))
    context = draws.pick(PLAIN_SENTENCES).format_map(slots)
    plain = draws.pick(PLAIN_SENTENCES).format_map(slots)
    if kind == "inviting":
        opening, _ = _frame(slots, 0, 0.25, reserved=False)
        beginning = opening + slots["they"] + draws.pick(("", " are", " always", " behave like"))
    else:
        beginning = " ".join(plain.split()[: plain.count(" ") // 2 + 1])
    text = f"{_capitalized(context)}. {_capitalized(beginning)}"
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
