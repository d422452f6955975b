import math
from dataclasses import FrozenInstanceError, is_dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data_prep import config as data_config
from data_prep.config import AnnotationConfig, DataConfig, DecontaminationConfig, TokenizerConfig
from data_prep.core.errors import (
    ArtefactCorrupt,
    ArtefactMissing,
    ClusterError,
    ConfigurationError,
    HormesisError,
    Interrupted,
    StorageError,
)
from data_prep.core.records import digest, from_json, operational, record, to_json
from data_prep.core.settings import Example, is_valid
from data_prep.token_stream import manifest, mixture
from data_prep.token_stream.mixture import Mixture
from eval import config as eval_config
from eval import eval_report as eval_record
from eval.config import (
    CapabilityConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)
from training import config as train_config
from training import run_record as train_record
from training.config import ModelConfig, OptimizerConfig, TrainConfig

MODULES = (data_config, manifest, mixture, train_config, train_record, eval_config, eval_record)
RECORDS = [
    cls
    for module in MODULES
    for cls in vars(module).values()
    if is_dataclass(cls) and cls.__module__ == module.__name__
]
# Per record the fields to draw, and the values of fields that depend on each other.
EXAMPLES: dict[type, tuple[tuple[str, ...], dict[str, Any]]] = {
    ModelConfig: (
        ("rope_theta", "norm_eps"),
        {"d_model": 8, "n_layers": 1, "n_heads": 2, "d_mlp": 8, "vocab_size": 300},
    ),
    OptimizerConfig: (
        ("kind", "learning_rate", "weight_decay", "gradient_clip"),
        {"betas": (0, 0.5)},
    ),
    TrainConfig: (
        ("model", "optimizer", "schedule", "checkpoint", "validation", "guard", "metrics"),
        {"sequence_length": 8, "global_batch": 4},
    ),
    Mixture: (("n_clean", "n_toxic", "seed", "max_toxic_epochs"), {"batch_size": 4}),
    AnnotationConfig: (("kind",), {"scorer": "label", "threshold": 0, "tagged_ratio": 0.5}),
    DecontaminationConfig: (("uris",), {"ngram": 5}),
    TokenizerConfig: (("source", "eos", "fingerprint"), {"vocab_size": 300}),
    DataConfig: (
        (
            "clean",
            "toxic",
            "tokenizer",
            "cleaning",
            "shuffle_seed",
            "dedup",
            "decontamination",
            "annotation",
        ),
        {"held_out_ratio": 0.25},
    ),
    ProbingConfig: (("label_threshold", "group_field", "site", "transfer"), {}),
    SteeringConfig: (("top_heads", "positions"), {"strengths": (1, 2.5)}),
    GenerationConfig: (("n_prompts", "decoding"), {"top_p": 0.5}),
    ScoringConfig: (("min_coverage_ratio",), {"scorer": "lexicon:a.csv", "fluency_model": "run:a"}),
    CapabilityConfig: (("n_questions",), {"held_out": ("web=web.jsonl",)}),
    EvalConfig: (("probing", "steering", "generation", "scoring", "capability", "seed"), {}),
}


@record
class ChildRecord:
    size: int
    kind: Literal["round", "square"] = "round"
    ratio: float = 0.5
    label: str | None = None
    workers: int = operational(default=1)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ConfigurationError(f"inner.size is {self.size}; expected at least 0")


@record
class ParentRecord:
    inner: ChildRecord
    names: tuple[str, ...] = ()
    quick: bool = False


OUTER = ParentRecord(inner=ChildRecord(size=3))
TEXT = (
    '{"inner": {"size": 3, "kind": "round", "ratio": 0.5, "label": null, "workers": 1}, '
    '"names": ["a"], "quick": false}'
)


def values(hint: Any) -> st.SearchStrategy:
    """Values of a record's field; whole floats come as int at times, which Python lets a recipe
    write.
    """
    arguments = get_args(hint)
    if is_dataclass(hint):
        return records(hint)
    if get_origin(hint) is Literal:
        return st.sampled_from(arguments)
    if get_origin(hint) is Annotated:
        if arguments[0] is str:  # names and checksums
            names = ["", "a", "b.c", "streams/a", 64 * "0"]
            return st.sampled_from([name for name in names if is_valid(hint, name)])
        if examples := [mark.value for mark in hint.__metadata__ if isinstance(mark, Example)]:
            return st.sampled_from(examples)  # a list that the group checks further
        if arguments[0] is int:
            small = [n for n in range(10) if is_valid(hint, n)]
            if len(small) == 1:  # a format_version
                return st.just(small[0])
            return values(int).filter(lambda n: is_valid(hint, n))
        whole = [n for n in range(6) if is_valid(hint, n)]
        return st.from_type(hint).filter(math.isfinite) | st.sampled_from(whole)
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*(values(one) for one in arguments))
    if get_origin(hint) is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if get_origin(hint) is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), min_size=1, max_size=2).map(tuple)
    if get_origin(hint) is tuple:
        return st.tuples(*map(values, arguments))
    plain = {
        str: st.text(max_size=3),
        int: st.integers(1, 2**60),
        bool: st.booleans(),
        NoneType: st.none(),
    }
    return (
        st.floats(0.01, 0.4) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 5)
        if hint is float
        else plain[hint]
    )


@st.composite
def records(draw: st.DrawFn, cls: Any) -> Any:
    """A record of type `cls`: fields that depend on each other as in its example, the others
    anything of their type.
    """
    free, example = EXAMPLES.get(cls, (None, {}))
    hints = {
        name: hint
        for name, hint in get_type_hints(cls, include_extras=True).items()
        if free is None or name in free
    }
    try:
        return cls(**example | {name: draw(values(hint)) for name, hint in hints.items()})
    except ConfigurationError:
        assume(False)


@pytest.mark.parametrize("cls", RECORDS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_record_keeps_its_value_and_digest_through_json(cls: Any, data: st.DataObject):
    value = data.draw(records(cls))
    loaded = from_json(cls, to_json(value), "here")
    assert loaded == value
    assert digest(loaded) == digest(value)


def test_a_record_is_frozen_and_takes_keywords_only():
    with pytest.raises(TypeError, match="positional"):
        ChildRecord(3)  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        OUTER.quick = True  # type: ignore[misc]


def test_canonical_json_is_sorted_and_ends_with_a_newline():
    assert to_json(replace(OUTER, names=("α",))) == (
        '{\n "inner": {\n  "kind": "round",\n  "label": null,\n  "ratio": 0.5,\n'
        '  "size": 3,\n  "workers": 1\n },\n'
        ' "names": [\n  "α"\n ],\n "quick": false\n}\n'
    )


def test_nan_is_refused_in_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(ChildRecord(size=1, ratio=float("nan")))


def test_a_digest_is_pinned():
    """Update only when identities must change: every older run then has another id."""
    assert digest(OUTER) == "73495cb205c0f228"
    assert digest(OUTER, "more", 1) == "e8e8e823e90668bc"


def test_a_digest_ignores_operational_fields_only():
    assert digest(OUTER) == digest(replace(OUTER, inner=ChildRecord(size=3, workers=8)))
    others = [
        ParentRecord(inner=ChildRecord(size=4)),
        ParentRecord(inner=ChildRecord(size=3, label="")),
        replace(OUTER, quick=True),
        replace(OUTER, names=("a",)),
    ]
    assert len({digest(one) for one in (OUTER, *others)}) == 5


def test_a_whole_number_has_one_digest_as_int_or_float():
    assert digest(ChildRecord(size=1, ratio=1)) == digest(ChildRecord(size=1, ratio=1.0))
    assert (
        digest(ChildRecord(size=1, ratio=0.0))
        == digest(ChildRecord(size=1, ratio=-0.0))
        != digest(ChildRecord(size=1, ratio=1e-300))
    )


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"size": 3', '"size": "3"', r"inner\.size: .*integer.*got '3'"),
        ('"size": 3', '"size": 3.0', r"inner\.size"),
        ('"size": 3', '"size": -3', r"inner: .*expected at least 0"),
        ('"size": 3, ', "", r"inner\.size: Field required"),
        (
            '"size": 3',
            '"size": 3, "colour": 1',
            r"inner\.colour: .*[Ee]xtra|inner\.colour: Unexpected",
        ),
        ('"round"', '"oval"', r"inner\.kind: .*'round' or 'square'"),
        ('["a"]', '["a", 2]', r"names\.1: .*string"),
        ("false", "0", r"quick: .*boolean"),
        ("false}", "false", "Invalid JSON"),
    ],
)
def test_a_wrong_field_is_reported_with_its_file(old: str, new: str, fault: str):
    assert from_json(ParentRecord, TEXT, "s3://b/run.json") == replace(OUTER, names=("a",))
    assert TEXT.count(old) == 1
    with pytest.raises(
        ArtefactCorrupt, match=rf"s3://b/run\.json is not a valid ParentRecord: .*{fault}"
    ):
        from_json(ParentRecord, TEXT.replace(old, new), "s3://b/run.json")


def test_all_error_types_have_one_base():
    known = {
        ConfigurationError,
        ArtefactMissing,
        ArtefactCorrupt,
        StorageError,
        ClusterError,
        Interrupted,
    }
    assert known == set(HormesisError.__subclasses__())


def test_a_value_that_is_not_utf8_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"caf\\udce9\.jsonl.*not UTF-8.*rename"):
        digest({"clean": ["caf\udce9.jsonl"]})
