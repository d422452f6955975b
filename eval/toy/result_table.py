"""the toy experiment's table as text: estimators × layers, with chance level and losses"""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.core.settings import describe
from eval.stats.estimate_with_interval import Estimate
from eval.toy.config import ToyConfig
from eval.toy.toy_result import (
    ENTANGLEMENT,
    LENGTH,
    OTHER_CHAINS,
    PairedContrast,
    ToyCell,
    ToyResult,
)

SIGNIFICANCE = 0.05
VERDICTS = "Under-sampled against control features at the lowest ratio, after Holm's correction:"
# settings that the first words of a variant name
NAMED = ("chains.n_chains", "chains.n_states", "chains.noise", "model.d_model")
MARK = "*"
NONE = "–"
MINUS = "\N{MINUS SIGN}"
COLUMNS = (
    "estimator",
    "layer",
    "under-sampled",
    "control",
    "untrained",
    "difference",
    "drop",
    "other chains",
    "length",
    "length, control",
    "difference in length",
)


class Arm(NamedTuple):
    """One learning rate and weight decay, and its cells by estimator and layer."""

    name: str
    cells: list[ToyCell]


def arms(result: ToyResult) -> list[Arm]:
    """The arms in the order of the settings."""
    found: dict[str, list[ToyCell]] = {}
    for cell in result.cells:
        found.setdefault(arm_name(cell.learning_rate, cell.weight_decay), []).append(cell)
    return [Arm(name, cells) for name, cells in found.items()]


def arm_name(learning_rate: float, weight_decay: float) -> str:
    return f"learning rate {learning_rate:g}, weight decay {weight_decay:g}"


def estimator_name(estimator: str) -> str:
    """The name of an estimator in tables and figures."""
    return "LDA" if estimator == "lda" else estimator.replace("_", " ")


def row(cell: ToyCell) -> list[str]:
    """The columns of one cell, at the lowest ratio."""
    angle, length = cell.quantities[ENTANGLEMENT], cell.quantities[LENGTH]
    return [
        estimator_name(cell.estimator),
        str(cell.layer),
        _level(angle.levels[0].under_sampled),
        _level(angle.levels[0].control),
        NONE if angle.untrained is None else f"{angle.untrained:.3f}",
        difference(angle.minus_control),
        difference(angle.drop),
        difference(cell.quantities[OTHER_CHAINS].minus_control),
        _level(length.levels[0].under_sampled),
        _level(length.levels[0].control),
        difference(length.minus_control),
    ]


def loss_rows(result: ToyResult) -> list[list[str]]:
    """Per arm and ratio: sequences drawn, loss of the under-sampled chain and of the others."""
    return [
        [
            arm_name(loss.learning_rate, loss.weight_decay),
            f"{100 * loss.ratio:.4g} %",
            f"{loss.n_drawn:,.0f}",
            _level(loss.under_sampled),
            _level(loss.control),
        ]
        for loss in result.losses
    ]


LOSS_COLUMNS = ("arm", "ratio", "sequences drawn", "loss, under-sampled", "loss, control")


def facts(result: ToyResult) -> str:
    """What the table compares, and the levels that it is read against."""
    config = result.config
    n_features = config.chains.n_chains * config.chains.n_states
    level = result.random_level
    n_significant = sum(
        is_significant(test)
        for cell in result.cells
        for found in cell.quantities.values()
        for test in (found.minus_control, found.drop)
    )
    return (
        f"{result.n_replicas} models: {len(config.ratios)} ratios, {config.n_seeds} seeds. "
        f"{n_features} features in {config.model.d_model} dimensions: random directions have "
        f"entanglement {level.value:.3f}, Welch's bound is {result.welch_bound:.3f}. "
        f"Difference: under-sampled minus control features at {_percent(config.ratios[0])}. "
        f"Drop: under-sampled features at {_percent(config.ratios[0])} minus those at "
        f"{_percent(config.ratios[-1])}. Other chains: the difference with features of other "
        f"chains alone. 95 % t intervals, paired by seed. {MARK}: p ≤ {SIGNIFICANCE} after Holm's "
        f"correction over all {result.n_tests} tests; {n_significant} are."
    )


def variant(config: ToyConfig) -> str:
    """'3 chains over 4 states, width 4', and what else is unusual."""
    chains = config.chains
    words = f"{chains.n_chains} chains over {chains.n_states} states, width {config.model.d_model}"
    if chains.noise:
        words += f", noise {chains.noise:g}"
    unusual = [
        f"{setting.path} {setting.value}"
        for setting, usual in zip(describe(config), describe(ToyConfig()), strict=True)
        if setting.value != usual.value and not setting.path.startswith(NAMED)
    ]
    return ", ".join([words, *unusual])


def verdicts(result: ToyResult) -> list[str]:
    """Per estimator, in how many cells under-sampled features differ from control features."""
    lines = []
    for name in dict.fromkeys(cell.estimator for cell in result.cells):
        cells = [cell for cell in result.cells if cell.estimator == name]
        parts = []
        for quantity in (ENTANGLEMENT, LENGTH):
            tests = [cell.quantities[quantity].minus_control for cell in cells]
            tests = [test for test in tests if test.p is not None]
            found = [test.difference.value or 0.0 for test in tests if is_significant(test)]
            n_higher = sum(value > 0 for value in found)
            parts.append(
                f"{quantity} is higher in {n_higher} and lower in {len(found) - n_higher} of "
                f"{len(tests)} cells"
            )
        shown = estimator_name(name)
        lines.append(f"{shown[0].upper()}{shown[1:]}: {'; '.join(parts)}.")
    return lines


def text(result: ToyResult) -> str:
    """The whole table for a terminal."""
    lines = [f"{variant(result.config)}: {facts(result)}", "", VERDICTS, *verdicts(result)]
    for arm in arms(result):
        lines += ["", arm.name, *_aligned([COLUMNS, *map(row, arm.cells)])]
    lines += ["", *_aligned([LOSS_COLUMNS, *loss_rows(result)])]
    return "\n".join(lines) + "\n"


def difference(test: PairedContrast) -> str:
    """'+0.024 [−0.001, +0.049]', with MARK if it is significant after Holm's correction."""
    found = test.difference
    if found.value is None or found.low is None or found.high is None:
        return NONE
    if test.p is None:
        return "0"  # equal by construction
    low, high = _signed(found.low), _signed(found.high)
    return f"{_signed(found.value)} [{low}, {high}]{MARK if is_significant(test) else ''}"


def is_significant(test: PairedContrast) -> bool:
    return test.p_holm is not None and test.p_holm <= SIGNIFICANCE


def _level(estimate: Estimate) -> str:
    return NONE if estimate.value is None else f"{estimate.value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.4g} %"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]
