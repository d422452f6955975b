"""Groups of settings: checked when constructed, changed by dotted path, described for users."""

import json
import shlex
from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import from_json, operational, to_json
from data_prep.core.settings import (
    Count,
    CountOrZero,
    NonNegative,
    Positive,
    Share,
    adapter,
    describe,
    evolve,
    example,
    parse_overrides,
    settings,
    type_name,
)


@settings("inner")
class ChildSettings:
    size: CountOrZero
    """Rows per box."""
    kind: Literal["round", "square"] = "round"
    ratio: float = 0.5
    label: str | None = None
    workers: int = operational(default=1)


@settings("")
class ParentSettings:
    inner: ChildSettings
    """The box."""
    names: tuple[str, ...] = ()
    bounds: dict[str, Share] | None = None
    quick: bool = False


@settings("shape")
class ShapeSettings:
    sides: int
    colour: str

    def named(self, name: str) -> "ShapeSettings":
        return replace(self, sides={"triangle": 3, "square": 4}[name])


@settings("")
class CanvasSettings:
    shape: ShapeSettings
    title: str = ""


@settings("train.pair")
class Pair:
    """Two values that are only right together."""

    low: Annotated[float, Gt(0)] = 1.0
    high: float = 2.0
    shares: tuple[Share, ...] = ()
    batch: Count | Literal["auto"] = 1
    share: Share = 0.5

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigurationError(f"train.pair: low {self.low} exceeds high {self.high}")


OUTER = ParentSettings(inner=ChildSettings(size=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0.0}, r"train\.pair\.low is 0\.0; expected number > 0, e\.g\. 1\.0"),
        ({"low": float("nan")}, r"train\.pair\.low is nan; expected number > 0"),
        ({"low": "1"}, r"train\.pair\.low is '1'; expected number > 0"),
        ({"low": None}, r"train\.pair\.low is None; expected number > 0"),
        ({"low": True}, r"train\.pair\.low is True; expected number > 0"),
        ({"high": float("inf")}, r"train\.pair\.high is inf; expected number"),
        ({"shares": (0.5, float("-inf"))}, r"train\.pair\.shares is .*expected list of number"),
        ({"shares": (0.5, 1.5)}, r"shares is \(0\.5, 1\.5\); .*list of number >= 0 and <= 1"),
        ({"shares": [0.5]}, r"train\.pair\.shares is \[0\.5\]; expected list"),
        ({"batch": 0}, r"train\.pair\.batch is 0; expected whole number >= 1 or auto"),
        ({"batch": True}, r"train\.pair\.batch is True; expected whole number >= 1 or auto"),
        ({"batch": 2.0}, r"train\.pair\.batch is 2\.0; expected whole number"),
        ({"batch": "all"}, r"train\.pair\.batch is 'all'; expected whole number >= 1 or auto"),
        ({"share": 1.5}, r"train\.pair\.share is 1\.5; expected number >= 0 and <= 1, e\.g\. 0\.5"),
        ({"low": 3.0}, r"low 3\.0 exceeds high 2\.0"),
    ],
)
def test_a_group_checks_its_values_when_constructed(values: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        Pair(**values)


def test_a_group_takes_values_in_range():
    pair = Pair(low=1, high=2, batch="auto", shares=(0, 1.0))
    assert (pair.low, pair.batch, pair.shares) == (1, "auto", (0, 1.0))


def test_a_field_for_a_group_takes_only_that_group():
    with pytest.raises(
        ConfigurationError, match=r"inner is \{'size': 3\}; expected ChildSettings$"
    ):
        ParentSettings(inner={"size": 3})  # type: ignore[arg-type]
    with pytest.raises(
        ConfigurationError, match=r"inner is ShapeSettings\(.*\); expected ChildSettings$"
    ):
        ParentSettings(inner=ShapeSettings(sides=3, colour=""))  # type: ignore[arg-type]


def test_a_subclass_keeps_the_check_of_its_parent():
    @settings("train.pair")
    class Triple(Pair):
        third: Count = 1

    with pytest.raises(ConfigurationError, match="exceeds"):
        Triple(low=3.0)
    with pytest.raises(ConfigurationError, match=r"train\.pair\.third is 0"):
        Triple(third=0)


def test_changes_are_merged_and_checked_once_in_any_order():
    assert evolve(Pair(), {"low": 5.0, "high": 6.0}) == Pair(low=5.0, high=6.0)
    for words in (["low=5", "high=6"], ["high=6", "low=5"]):
        assert parse_overrides(Pair(), words) == Pair(low=5.0, high=6.0)
    with pytest.raises(ConfigurationError, match="exceeds"):
        parse_overrides(Pair(), ["low=5"])


def test_evolve_sets_nested_paths_and_leaves_the_rest():
    assert evolve(OUTER, {"inner.size": 4, "quick": True}) == ParentSettings(
        inner=ChildSettings(size=4), quick=True
    )
    assert evolve(OUTER, {}) == OUTER


def test_a_whole_group_is_set_before_paths_inside_it():
    changes = {"inner.ratio": 0.25, "inner": ChildSettings(size=9)}
    assert evolve(OUTER, changes).inner == ChildSettings(size=9, ratio=0.25)


@pytest.mark.parametrize("path", ["sise", "inner.sise", "inner.size.big", "names.x"])
def test_evolve_refuses_an_unknown_path(path: str):
    with pytest.raises(ConfigurationError, match=rf"no setting {path}; .* --settings` lists all"):
        evolve(OUTER, {path: 1})


def test_of_two_words_for_one_setting_the_last_counts():
    assert parse_overrides(OUTER, ["inner.size=5", "inner.size=6"]).inner.size == 6


@pytest.mark.parametrize("word", ["inner.size", "=3", ""])
def test_a_word_without_path_or_value_is_refused(word: str):
    with pytest.raises(ConfigurationError, match=r"expected PATH=VALUE, e\.g\. train\.optimizer"):
        parse_overrides(OUTER, [word])


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("inner.size", "7", replace(OUTER, inner=ChildSettings(size=7))),
        ("inner.ratio", "1e-3", replace(OUTER, inner=ChildSettings(size=3, ratio=0.001))),
        ("inner.ratio", "1", replace(OUTER, inner=ChildSettings(size=3, ratio=1.0))),
        ("inner.kind", "square", replace(OUTER, inner=ChildSettings(size=3, kind="square"))),
        ("inner.kind", '"square"', replace(OUTER, inner=ChildSettings(size=3, kind="square"))),
        ("inner.label", "12", replace(OUTER, inner=ChildSettings(size=3, label="12"))),
        ("inner.label", "a=b", replace(OUTER, inner=ChildSettings(size=3, label="a=b"))),
        ("inner.label", "null", OUTER),
        ("inner.workers", "9", replace(OUTER, inner=ChildSettings(size=3, workers=9))),
        ("quick", "true", replace(OUTER, quick=True)),
        ("names", '["x", "y"]', replace(OUTER, names=("x", "y"))),
        ("bounds", '{"x": 0.25}', replace(OUTER, bounds={"x": 0.25})),
    ],
)
def test_a_setting_is_replaced_by_its_dotted_path(path: str, text: str, expected: ParentSettings):
    new = parse_overrides(OUTER, [f"{path}={text}"])
    assert new == expected
    assert type(new.inner.ratio) is float


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("innr.size", "7", r"no setting innr\.size; did you mean inner\.size\?"),
        ("inner.sise", "7", r"no setting inner\.sise; did you mean inner\.size\?"),
        ("size", "7", r"no setting size; did you mean inner\.size\? .* --settings` lists all"),
        ("inner.kind", "7", r"got '7'; expected one of round, square"),
        ("xyzzy", "1", r"no setting xyzzy; `python launch/sweep\.py --settings` lists all"),
        ("inne", "7", r"no setting inne; did you mean inner\.\w+\?"),
        ("inner.size.big", "7", r"no setting inner\.size\.big"),
        ("names.x", "7", r"no setting names\.x"),
        ("sides.x.y", "7", r"no setting sides\.x\.y"),
        ("inner", "7", r"inner is a group; set one of inner\.size, inner\.kind"),
        ("inner", '{"size": 3}', r"inner is a group; set one of inner\.size, inner\.kind"),
        ("inner.size", "many", r"got 'many'; expected whole number >= 0, e\.g\. --set inner"),
        ("inner.size", "7.5", r"--set inner\.size=7\.5: got '7\.5'; expected whole number >= 0"),
        ("inner.size", "true", r"--set inner\.size=true: got 'true'; expected whole number >= 0"),
        ("inner.size", "-1", r"--set inner\.size=-1: got '-1'; expected whole number >= 0"),
        ("inner.size", "", r"--set inner\.size=: got ''; expected whole number >= 0"),
        ("inner.ratio", "NaN", r"got 'NaN'; expected number, e\.g\. --set inner\.ratio=0\.5"),
        ("inner.ratio", "1e999", r"got '1e999'; expected number"),
        ("inner.ratio", "true", r"got 'true'; expected number"),
        ("quick", "yes", r"got 'yes'; expected true or false, e\.g\. --set quick=false"),
        ("quick", "0", r"got '0'; expected true or false"),
        ("names", "x", r"""got 'x'; expected list of texts, e\.g\. --set 'names=\["TEXT"\]'"""),
        ("names", '["x", 1]', r"expected list of texts"),
        ("bounds", '{"x": 2}', r"expected map from text to number >= 0 and <= 1 or null"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(path: str, text: str, message: str):
    with pytest.raises(ConfigurationError, match=message) as refused:
        parse_overrides(OUTER, [f"{path}={text}"])
    assert str(refused.value).startswith(f"--set {path}={text}: ")


@pytest.mark.parametrize("base", [OUTER, replace(OUTER, names=("a b", "c'd"))])
def test_the_example_in_an_error_works_when_it_is_followed(base: ParentSettings):
    for path in ("inner.size", "inner.ratio", "inner.kind", "quick", "names", "bounds"):
        with pytest.raises(ConfigurationError) as refused:
            parse_overrides(base, [f"{path}=?"])
        (word,) = shlex.split(str(refused.value).rpartition("e.g. --set ")[2])
        assert word.startswith(f"{path}=")
        parse_overrides(base, [word])


def test_a_group_with_named_variants_is_set_by_name_or_field():
    drawing = CanvasSettings(shape=ShapeSettings(sides=5, colour="red"))
    assert parse_overrides(drawing, ["shape=square"]) == CanvasSettings(
        shape=ShapeSettings(sides=4, colour="red")
    )
    assert parse_overrides(drawing, ["shape.sides=6"]) == CanvasSettings(
        shape=ShapeSettings(sides=6, colour="red")
    )
    assert parse_overrides(
        drawing, ["shape.colour=blue", "shape=square", "title=x"]
    ) == CanvasSettings(shape=ShapeSettings(sides=4, colour="blue"), title="x")


def test_every_setting_is_described_with_type_value_and_meaning():
    assert describe(OUTER)[0] == ("inner.size", "whole number >= 0", "3", "Rows per box.", False)
    assert [(one.path, one.value) for one in describe(OUTER)] == [
        ("inner.size", "3"),
        ("inner.kind", "round"),
        ("inner.ratio", "0.5"),
        ("inner.label", "null"),
        ("inner.workers", "1"),
        ("names", "[]"),
        ("bounds", "null"),
        ("quick", "false"),
    ]
    assert describe(OUTER, "inner.workers")[0].is_operational
    assert [one.path for one in describe(OUTER, "inner.k")] == ["inner.kind"]
    assert describe(replace(OUTER, names=("é",)), "names")[0].value == '["é"]'
    assert describe(CanvasSettings(shape=ShapeSettings(sides=1, colour="")))[1].value == '""'


@pytest.mark.parametrize("base", [OUTER, replace(OUTER, names=("é",), bounds={"x": 0.5})])
def test_every_described_value_can_be_set_again(base: ParentSettings):
    for one in describe(base):
        assert parse_overrides(base, [f"{one.path}={one.value}"]) == base


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "whole number"),
        (Count, "whole number >= 1"),
        (Share, "number >= 0 and <= 1"),
        (Positive, "number > 0"),
        (Annotated[int, Ge(1_000_000)], "whole number >= 1000000"),
        (Count | Literal["auto"], "whole number >= 1 or auto"),
        (str | None, "text or null"),
        (Literal["a", "b"], "one of a, b"),
        (bool, "true or false"),
        (tuple[str, ...], "list of texts"),
        (tuple[int, ...], "list of whole numbers"),
        (tuple[float, float], "list of exactly 2: number, number"),
        (tuple[tuple[str, float], ...], "list of list of exactly 2: text, number"),
        (dict[str, float], "map from text to number"),
        (bytes, "bytes"),
    ],
)
def test_a_type_is_named_in_words(hint: Any, name: str):
    assert type_name(hint) == name


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 1),
        (float, 0.5),
        (bool, True),
        (str, "TEXT"),
        (Count, 2),
        (CountOrZero, 1),
        (Share, 0.5),
        (NonNegative, 1.0),
        (Annotated[float, Gt(-3)], -2.0),
        (Annotated[int, Le(-5)], -5),
        (Annotated[float, Lt(0)], -0.5),
        (Count | Literal["auto"], 2),
        (str | None, "TEXT"),
        (Literal["a", "b"], "a"),
        (tuple[Count, Share], [2, 0.5]),
        (tuple[str, ...], ["TEXT"]),
        (dict[str, Positive], {"TEXT": 1.0}),
    ],
)
def test_an_example_of_a_type_is_small_and_valid(hint: Any, value: Any):
    assert example(hint) == value
    adapter(hint | None).validate_json(json.dumps(value))


def test_a_group_comes_back_from_its_json():
    for value in (OUTER, replace(OUTER, bounds={"x": 1})):
        assert from_json(ParentSettings, to_json(value), "here") == value
