"""figures of training: losses over tokens, and when a probe can read the attribute"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from data_prep.core import storage
from eval.stats import intervals, roc
from eval.stats.estimate_with_interval import Estimate
from launch.report.figures import panels
from launch.report.figures.axes import (
    LossSeries,
    block_means,
    limit_losses,
    lines_over_tokens,
    token_axis,
)
from launch.report.figures.palette import FAINT, PAPER, SOFT, colour_by_ratio
from launch.report.figures.panels import RatioPanels
from launch.report.figures.svg_rendering import Area, FigureNumbers, FigurePlan, note_if_empty
from launch.report.text import figure_notes
from launch.report.text.number_format import NOT_MEASURED, percent
from training.run_record import RunRecord, run_uri

EMERGENCE_WIDE, EMERGENCE_NARROW = 3, 2  # panels per row


class TrainingCurve(NamedTuple):
    """One run over training: (tokens seen, nats per token), in order; held_out per stream.

    probe: (tokens seen, AUROC), of training/trainer/validation.py.
    """

    ratio: float
    realised: float
    train: LossSeries
    held_out: dict[str, LossSeries]
    probe: Sequence[tuple[int, Estimate]] = ()


def read_training_curve(root: str, record: RunRecord) -> TrainingCurve:
    """The run's losses from its metrics.jsonl (training/metrics/metrics_log.py); without that file,
    the final ones of its record.
    """
    config = record.config
    train: dict[int, float] = {}
    probe: dict[int, Estimate] = {}
    held_out = {final.stream: {record.n_tokens: final.loss} for final in record.held_out}
    for line in _metrics(storage.join(run_uri(root, config.run_id), "metrics.jsonl")):
        tokens = config.mixture.rows_before(line["step"]) * config.train.sequence_length
        if "probe" in line:
            probe[tokens] = roc.hanley_mcneil(
                line["auroc"], line["n_windows"], confidence=intervals.CONFIDENCE
            )
        elif "held_out" in line:
            held_out.setdefault(line["held_out"], {})[tokens] = line["loss"]
        else:
            train[tokens] = line["loss"]
    return TrainingCurve(
        ratio=config.toxic_ratio,
        realised=record.realised_toxic_ratio,
        train=sorted(train.items()),
        held_out={stream: sorted(losses.items()) for stream, losses in held_out.items()},
        probe=sorted(probe.items()),
    )


def _metrics(uri: str) -> list[dict[str, Any]]:
    if not storage.exists(uri):
        return []
    return [json.loads(line) for line in storage.read(uri).splitlines()]


def figures(curves: Sequence[TrainingCurve]) -> list[FigurePlan]:
    """Losses, and the emergence of the attribute if it was measured."""
    ratios = [curve.ratio for curve in curves]
    n = len(set(ratios))
    draw = partial(losses, curves=curves)
    n_blocks = 1 + len(_streams(curves))
    wide, narrow = (
        n_blocks * panels.panels_height(n, at_most, 1.05)
        for at_most in (panels.ROW_WIDE, panels.ROW_NARROW)
    )
    plans = [
        FigurePlan(
            "losses", draw, losses_numbers(curves), (wide, narrow), figure_notes.losses(ratios)
        )
    ]
    if any(curve.probe for curve in curves):
        heights = (
            panels.panels_height(n, EMERGENCE_WIDE, 1.45),
            panels.panels_height(n, EMERGENCE_NARROW, 1.3),
        )
        draw = partial(emergence, curves=curves)
        numbers = emergence_numbers(curves)
        note = figure_notes.emergence(ratios, numbers.rows[0][-1])
        plans.append(FigurePlan("emergence", draw, numbers, heights, note))
    return plans


def _streams(curves: Sequence[TrainingCurve]) -> list[str]:
    return sorted({stream for curve in curves for stream in curve.held_out})


def losses(figure: Area, wide: bool, curves: Sequence[TrainingCurve]) -> None:
    """Training loss and held-out loss of each stream against tokens seen, a panel per ratio."""
    streams = _streams(curves)
    parts = list(figure.subfigures(1 + len(streams), 1, squeeze=False).flat)
    training = [(curve.ratio, block_means(curve.train)) for curve in curves]
    _loss_block(parts[0], "training text, nats per token", training, wide)
    for part, stream in zip(parts[1:], streams, strict=True):
        title = f"held-out {stream} text, nats per token"
        lines = [(curve.ratio, curve.held_out.get(stream, [])) for curve in curves]
        if any(len(points) > 1 for _, points in lines):
            _loss_block(part, title, lines, wide)
        else:
            _final_losses(part, title, curves, stream)


def _loss_block(
    figure: Area, title: str, lines: Sequence[tuple[float, LossSeries]], wide: bool
) -> None:
    def draw(axes: Axes, ratio: float, colour: str) -> None:
        own = [points for line_ratio, points in lines if line_ratio == ratio]
        lines_over_tokens(axes, own, colour)

    def finish(axes: Axes) -> None:
        limit_losses(axes, [points for _, points in lines])
        token_axis(axes, 2)

    block = RatioPanels(title, "tokens seen", draw, finish)
    at_most = panels.ROW_WIDE if wide else panels.ROW_NARROW
    drawn = panels.draw_panels(figure, [ratio for ratio, _ in lines], block, at_most)
    for axes in drawn:
        note_if_empty(axes, NOT_MEASURED)


def _final_losses(figure: Area, title: str, curves: Sequence[TrainingCurve], stream: str) -> None:
    """Held-out losses against the ratio, where they were measured only at the end of training."""
    axes = figure.add_subplot(title=title)
    colours = colour_by_ratio(curve.ratio for curve in curves)
    for curve in curves:
        points = curve.held_out.get(stream, [])
        x = [100 * curve.realised] * len(points)
        y = [loss for _, loss in points]
        axes.plot(x, y, "o", color=colours[curve.ratio], mec=PAPER, ms=7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share / 100)))
    axes.set_xlabel("share of toxic text")
    note_if_empty(axes, NOT_MEASURED)


def losses_numbers(curves: Sequence[TrainingCurve]) -> FigureNumbers:
    rows = []
    parts = []
    for curve in curves:
        held_out = {f"held-out {name}": points for name, points in sorted(curve.held_out.items())}
        lines = {"training": block_means(curve.train)} | held_out
        for text, points in lines.items():
            rows += [(curve.ratio, text, tokens, loss) for tokens, loss in points]
        ends = ", ".join(f"{text} {points[-1][1]:.3f}" for text, points in lines.items() if points)
        parts.append(f"{percent(curve.ratio)}: {ends or NOT_MEASURED}")
    alt = f"Losses against tokens. At the end, {'; '.join(parts)}."
    return FigureNumbers(("toxic_ratio", "text", "tokens", "nats_per_token"), rows, alt)


def emergence(figure: Area, wide: bool, curves: Sequence[TrainingCurve]) -> None:
    """AUROC of the best head's probe, clean against toxic held-out text, over tokens seen, with
    chance as a dotted line: a panel per ratio.
    """

    def draw(axes: Axes, ratio: float, colour: str) -> None:
        for curve in curves:
            if curve.ratio == ratio:
                _auroc_line(axes, curve, colour)

    def finish(axes: Axes) -> None:
        token_axis(axes, 3)

    title = "AUROC of the best head, toxic against clean text"
    block = RatioPanels(title, "tokens seen", draw, finish)
    at_most = EMERGENCE_WIDE if wide else EMERGENCE_NARROW
    for axes in panels.draw_panels(figure, [curve.ratio for curve in curves], block, at_most):
        axes.axhline(0.5, color=SOFT, lw=1.0, ls=(0, (2, 3)))


def _auroc_line(axes: Axes, curve: TrainingCurve, colour: str) -> None:
    """One run's AUROC, with its interval unless it is in the back."""
    tokens = [seen for seen, _ in curve.probe]
    values = [estimate.value or 0.0 for _, estimate in curve.probe]
    if colour == FAINT:
        axes.plot(tokens, values, "-", color=FAINT, lw=1.0, zorder=1)
        return
    low = [estimate.low or 0.0 for _, estimate in curve.probe]
    high = [estimate.high or 0.0 for _, estimate in curve.probe]
    axes.fill_between(tokens, low, high, color=colour, alpha=0.2, lw=0, zorder=2)
    axes.plot(tokens, values, "-o", color=colour, lw=1.5, ms=3.5, zorder=3)


def emergence_numbers(curves: Sequence[TrainingCurve]) -> FigureNumbers:
    rows = [
        (curve.ratio, tokens, auroc.value, auroc.low, auroc.high, auroc.n)
        for curve in curves
        for tokens, auroc in curve.probe
    ]
    ends = [
        f"{percent(curve.ratio)} {curve.probe[-1][1].value:.2f}" for curve in curves if curve.probe
    ]
    alt = (
        "AUROC of the best head over training, a panel per share of toxic text. At the end: "
        f"{', '.join(ends)}."
    )
    return FigureNumbers(("toxic_ratio", "tokens", "auroc", "low", "high", "n_windows"), rows, alt)
