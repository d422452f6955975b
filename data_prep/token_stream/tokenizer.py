"""the pinned tokenizer: fingerprint, fast engine, and reference engine to check it

A tokenizers JSON file is pinned by a fingerprint, because a similar file with the same words but
another end-of-text id (OLMo has such a pair: 50279 and 0) would train without an error and end no
document. Two engines read the JSON. fastokens encodes, with flat arrays in and out, because Python
lists of ids cost more than the encoding. `tokenizers` is the reference that samples are compared
with, and the fallback for a JSON that fastokens cannot load or, with on_difference=fall_back,
encodes differently, such as a BPE of SentencePiece's kind.

A literal `<|endoftext|>` in a document is text. Both engines are told to split special tokens, and
this is tested once on loading; the eos id enters a stream only where the build writes it. Added
tokens that are not special (OLMo's runs of spaces) are matched as usual.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from data_prep.config import TokenizerConfig
from data_prep.core import storage, telemetry
from data_prep.core.errors import ArtefactCorrupt, ConfigurationError, summary
from data_prep.token_stream import tokenizer_json

SHOWN_CHARS = 20  # of a document, in an error: enough to find the place, not to read the text
CHECKED_CHARS = 8192  # of a long document: the reference takes half a second per megabyte

OnDifference = Literal["stop", "fall_back"]


class EnginesDiffer(ArtefactCorrupt):
    """The fast engine and the reference engine encoded a text differently."""


class EncodedBatch(NamedTuple):
    """The ids of several texts end to end, without eos, and the number of ids of each."""

    ids: np.ndarray  # [N] uint32
    lengths: np.ndarray  # [texts] int64


class Tokenizer:
    """One tokenizers JSON in both engines. `n_ids` is the highest id + 1, `engine` the one that
    encodes.
    """

    def __init__(
        self, text: str, eos: str, where: str, on_difference: OnDifference = "stop"
    ) -> None:
        """Raises ConfigurationError, naming `where`, if the text is not a tokenizers JSON, has no
        `eos`, or encodes a literal one as a control id; EnginesDiffer if the fast engine encodes
        literal control tokens differently, unless on_difference is "fall_back".
        """
        parsed = tokenizer_json.parse(text, where)
        self.json = text
        self.eos_id = tokenizer_json.eos_id(parsed, eos, where)
        self.n_ids = max(tokenizer_json.ids_by_token(parsed).values()) + 1
        self.fingerprint = tokenizer_json.fingerprint(parsed, eos)
        # Truncation or padding would change ids without an error.
        without = json.dumps(parsed | {"truncation": None, "padding": None})
        self._reference = _load_reference(without, where)
        self._fast = _load_fast(without)
        self.engine = "fastokens" if self._fast else "tokenizers"
        self._check_literals([eos, *tokenizer_json.special_tokens(parsed)], where, on_difference)

    def encode_batch(self, texts: Sequence[str]) -> EncodedBatch:
        """The ids of `texts`, without eos; a control token that occurs in a text is encoded as
        text.
        """
        if self._fast is not None:
            content, offsets = self._fast.encode_batch_flat(list(texts), False, True)
            ids = np.frombuffer(content, np.uint32)
            return EncodedBatch(ids, np.diff(np.frombuffer(offsets, np.uint64).astype(np.int64)))
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return EncodedBatch(np.array([i for row in rows for i in row], dtype=np.uint32), lengths)

    def reference_encode(self, text: str) -> list[int]:
        """The ids of one text by the reference engine."""
        return self._reference.encode(text, add_special_tokens=False).ids

    def ids_before_a_text(self) -> tuple[int, ...]:
        """The control ids that the file's post-processor puts before a text, such as a
        beginning-of-text id. `encode_batch` leaves them out.
        """
        encoding = self._reference.encode("a", add_special_tokens=True)
        n_before = encoding.special_tokens_mask.index(0)
        return tuple(encoding.ids[:n_before])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; control tokens are spelled out."""
        return self._reference.decode([int(i) for i in ids], skip_special_tokens=False)

    def by_reference(self) -> "Tokenizer":
        """The same tokenizer, encoding with the reference engine."""
        other = copy.copy(self)
        other._fast = None
        other.engine = "tokenizers"
        return other

    def check_sample(self, text: str, ids: np.ndarray) -> None:
        """Raise EnginesDiffer unless `ids` are those of the reference engine; of a long text both
        engines encode the beginning again.
        """
        if self._fast is None:
            return
        if len(text) <= CHECKED_CHARS:
            self.check([text], ids, np.array([len(ids)]))
        else:
            beginning = text[:CHECKED_CHARS]
            self.check([beginning], *self.encode_batch([beginning]))

    def check(self, texts: Sequence[str], ids: np.ndarray, lengths: np.ndarray) -> None:
        """Raise EnginesDiffer, showing the first difference, unless `ids` are those of the
        reference engine.
        """
        ends = np.cumsum(lengths)
        for text, start, end in zip(texts, ends - lengths, ends, strict=True):
            got = ids[start:end].tolist()
            expected = self.reference_encode(text)
            if got != expected:
                self._raise_difference(got, expected)

    def _raise_difference(self, got: list[int], expected: list[int]) -> None:
        pairs = enumerate(zip(got, expected, strict=False))
        differences = (i for i, (fast, reference) in pairs if fast != reference)
        position = next(differences, min(len(got), len(expected)))
        near = self.decode(expected[position : position + 4])[:SHOWN_CHARS]
        here = slice(position, position + 3)
        raise EnginesDiffer(
            f"{self.engine} and tokenizers disagree at id {position} of a document of "
            f"{len(expected):,} ids (near {near!r}): got {got[here]}, expected {expected[here]}; "
            "report it, and set data.tokenizer.on_difference=fall_back to encode with tokenizers"
        )

    def _check_literals(self, tokens: list[str], where: str, on_difference: OnDifference) -> None:
        """Check that control tokens inside a text, eos first, are encoded as text."""
        texts = [f"a {token} b{token}" for token in dict.fromkeys(tokens)]
        try:
            self.check(texts, *self.encode_batch(texts))
        except EnginesDiffer as error:
            if on_difference == "stop":
                raise EnginesDiffer(f"{where}: {error}") from None
            if not telemetry.in_ray_worker():  # the driver says it for all
                telemetry.logger.warning(
                    "%s: fastokens does not encode control tokens inside a text as text, so "
                    "tokenizers encodes all documents",
                    where,
                )
            self._fast = None
            self.engine = "tokenizers"
        if self.eos_id in self.encode_batch(texts[:1]).ids:
            raise ConfigurationError(
                f"{where}: the characters {tokens[0]!r} inside a text are encoded as the control "
                f"id {self.eos_id}; expected text; mark the token with "
                '"special": true in added_tokens, and keep it out of model.vocab'
            )


def load(uri: str, config: TokenizerConfig) -> Tokenizer:
    """The tokenizer in the JSON file at `uri`, or ConfigurationError if it is not the one that
    `config` pins.
    """
    tokenizer = _load_cached(tokenizer_json.read(uri), config.eos, uri, config.on_difference)
    if config.fingerprint is not None and tokenizer.fingerprint != config.fingerprint:
        raise ConfigurationError(
            f"{uri}: its fingerprint is {tokenizer.fingerprint} (eos id {tokenizer.eos_id}), "
            f"expected {config.fingerprint}: another tokenizer, or the same words with other "
            "special ids; give the pinned file or change data.tokenizer.fingerprint"
        )
    if tokenizer.n_ids != config.vocab_size:
        raise ConfigurationError(
            f"{uri}: has {tokenizer.n_ids:,} ids, data.tokenizer.vocab_size is "
            f"{config.vocab_size:,}; set it to the number of ids in the file, and "
            "train.model.vocab_size to at least as many"
        )
    return tokenizer


@lru_cache(maxsize=1)
def _load_cached(text: str, eos: str, where: str, on_difference: OnDifference) -> Tokenizer:
    """Loaded once per process: it takes a second for OLMo's, as long as to tokenize 40 MB."""
    return Tokenizer(text, eos, where, on_difference)


def save(tokenizer: Tokenizer, uri: str) -> None:
    """Publish the tokenizer's JSON, byte for byte as it was read."""
    storage.write(uri, tokenizer.json.encode())


def train(texts: Iterator[str], config: TokenizerConfig) -> Tokenizer:
    """A byte-level BPE of `config.vocab_size` ids, eos first, trained on at most
    `config.train_bytes` of `texts`.

    The same texts give the same JSON: the trainer counts words in parallel but breaks ties by id.
    There is no normalizer, so decoding gives back every byte.
    """
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]  # stubs lack the setters
    engine.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(  # type: ignore[call-arg]
        vocab_size=config.vocab_size,
        special_tokens=[config.eos],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(_at_most(texts, config.train_bytes), trainer)
    tokenizer = Tokenizer(engine.to_str(), config.eos, "the trained tokenizer")
    if tokenizer.n_ids != config.vocab_size:
        raise ConfigurationError(
            f"the clean corpus gives {tokenizer.n_ids:,} ids, data.tokenizer.vocab_size is "
            f"{config.vocab_size:,}; add clean text, raise data.tokenizer.train_bytes or lower "
            "data.tokenizer.vocab_size"
        )
    return tokenizer


def _at_most(texts: Iterator[str], n_bytes: int) -> Iterator[str]:
    """The texts up to `n_bytes` in total; the last one is cut."""
    for text in texts:
        encoded = text.encode()
        if len(encoded) >= n_bytes:
            yield encoded[:n_bytes].decode(errors="ignore")
            return
        yield text
        n_bytes -= len(encoded)


def _load_reference(text: str, where: str) -> Any:
    from tokenizers import Tokenizer as Engine

    try:
        engine = Engine.from_str(text)
    except BaseException as error:  # bare Exception, or a panic, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ConfigurationError(
            f"{where}: tokenizers cannot load it ({summary(error)}); {tokenizer_json.EXPECTED}"
        ) from error
    engine.encode_special_tokens = True
    return engine


def _load_fast(text: str) -> Any:
    """fastokens' engine, or None if it is not installed or refuses the JSON."""
    try:
        import fastokens

        return fastokens.Tokenizer.from_json_str(text)
    except BaseException as error:  # whatever it is, the reference engine says what is wrong
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return None
