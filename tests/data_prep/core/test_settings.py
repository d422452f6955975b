"""Groups of settings: ranges on construction, dotted paths, and what a wrong one is told."""

from dataclasses import replace
from typing import Annotated, Literal

import pytest
from annotated_types import Gt

from data_prep.core.errors import ConfigurationError
from data_prep.core.records import operational
from data_prep.core.settings import (
    Count,
    CountOrZero,
    Share,
    describe,
    evolve,
    parse_overrides,
    settings,
)


@settings("inner")
class Inner:
    size: CountOrZero
    """Rows per box."""
    kind: Literal["round", "square"] = "round"
    ratio: float = 0.5
    label: str | None = None
    workers: int = operational(default=1)


@settings("")
class Outer:
    inner: Inner
    names: tuple[str, ...] = ()
    quick: bool = False


@settings("shape")
class Shape:
    sides: int
    colour: str

    def named(self, name: str) -> "Shape":
        return replace(self, sides={"triangle": 3, "square": 4}[name])


@settings("")
class Drawing:
    shape: Shape


@settings("train.pair")
class Pair:
    """Two values that are only right together."""

    low: Annotated[float, Gt(0)] = 1.0
    high: float = 2.0
    shares: tuple[float, ...] = ()
    batch: Count | Literal["auto"] = 1
    share: Share = 0.5

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigurationError(f"train.pair: low {self.low} exceeds high {self.high}")


OUTER = Outer(inner=Inner(size=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0.0}, r"train\.pair\.low is 0\.0; expected a number > 0"),
        ({"low": float("nan")}, r"train\.pair\.low is nan; expected a finite number"),
        ({"high": float("inf")}, r"train\.pair\.high is inf; expected a finite number"),
        ({"shares": (0.5, float("-inf"))}, r"train\.pair\.shares is .*expected a finite number"),
        ({"batch": 0}, r"train\.pair\.batch is 0; expected a number >= 1"),
        ({"share": 1.5}, r"train\.pair\.share is 1\.5; expected a number <= 1"),
        ({"low": 3.0}, r"low 3\.0 exceeds high 2\.0"),
    ],
)
def test_a_group_checks_its_values_when_it_is_constructed(values, message):
    assert Pair(batch="auto").batch == "auto"
    with pytest.raises(ConfigurationError, match=message):
        Pair(**values)


def test_changes_are_merged_and_checked_once_in_any_order():
    assert evolve(Pair(), {"low": 5.0, "high": 6.0}) == Pair(low=5.0, high=6.0)
    for words in (["low=5", "high=6"], ["high=6", "low=5"]):
        assert parse_overrides(Pair(), words) == Pair(low=5.0, high=6.0)
    with pytest.raises(ConfigurationError, match="exceeds"):
        parse_overrides(Pair(), ["low=5"])


def test_every_setting_is_described_with_type_value_and_meaning():
    assert describe(OUTER)[0] == ("inner.size", "whole number >= 0", 3, "Rows per box.", False)
    assert [one.path for one in describe(OUTER, "inner.")] == [
        "inner.size",
        "inner.kind",
        "inner.ratio",
        "inner.label",
        "inner.workers",
    ]
    assert describe(OUTER, "inner.workers")[0].is_operational
    assert describe(OUTER, "inner.kind")[0].type == "one of round, square"


def test_the_example_in_an_error_works_when_it_is_followed():
    for path in ("inner.size", "inner.ratio", "quick", "names"):
        with pytest.raises(ConfigurationError) as refused:
            parse_overrides(OUTER, [f"{path}=?"])
        example = str(refused.value).rpartition("e.g. ")[2].replace("'", "")
        parse_overrides(OUTER, [example])


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("inner.size", "7", replace(OUTER, inner=Inner(size=7))),
        ("inner.ratio", "1e-3", replace(OUTER, inner=Inner(size=3, ratio=0.001))),
        ("inner.ratio", "1", replace(OUTER, inner=Inner(size=3, ratio=1.0))),
        ("inner.kind", "square", replace(OUTER, inner=Inner(size=3, kind="square"))),
        ("inner.kind", '"square"', replace(OUTER, inner=Inner(size=3, kind="square"))),
        ("inner.label", "12", replace(OUTER, inner=Inner(size=3, label="12"))),
        ("inner.label", "null", OUTER),
        ("inner.workers", "9", replace(OUTER, inner=Inner(size=3, workers=9))),
        ("quick", "true", replace(OUTER, quick=True)),
        ("names", '["x", "y"]', replace(OUTER, names=("x", "y"))),
    ],
)
def test_a_setting_is_replaced_by_its_dotted_path(path: str, text: str, expected: Outer):
    new = parse_overrides(OUTER, [f"{path}={text}"])
    assert new == expected
    assert type(new.inner.ratio) is float


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "innr.size",
            "7",
            r"--set innr\.size=7: there is no setting innr\.size; did you mean inner\.size\?",
        ),
        ("inner.sise", "7", r"there is no setting inner\.sise; did you mean inner\.size\?"),
        ("inner.size.big", "7", r"there is no setting inner\.size\.big"),
        ("inner", "7", r"inner is a group; set one of inner\.size, inner\.kind"),
        ("inner.size", "many", r"--set inner\.size=many: .*integer.*got 'many'"),
        ("inner.size", "7.5", r"--set inner\.size=7\.5: .*integer"),
        ("inner.size", "-1", r"inner\.size.*-1.*expected"),
        ("inner.kind", "oval", r"--set inner\.kind=oval: .*'round' or 'square'"),
        ("quick", "yes", r"--set quick=yes: .*boolean"),
        ("names", "x", r"--set names=x: .*tuple|--set names=x: .*array"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(path: str, text: str, message: str):
    with pytest.raises(ConfigurationError, match=message):
        parse_overrides(OUTER, [f"{path}={text}"])


def test_a_group_with_named_variants_is_set_by_a_name_or_field_by_field():
    drawing = Drawing(shape=Shape(sides=5, colour="red"))
    assert parse_overrides(drawing, ["shape=square"]) == Drawing(shape=Shape(sides=4, colour="red"))
    assert parse_overrides(drawing, ["shape.sides=6"]) == Drawing(
        shape=Shape(sides=6, colour="red")
    )
