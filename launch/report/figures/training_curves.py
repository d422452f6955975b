"""figures of training: losses over tokens, and when a probe can read the attribute"""

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from data_prep.core import storage
from eval.stats import intervals, roc
from eval.stats.estimate_with_interval import Estimate
from launch.report.figures.axes import (
    LossSeries,
    block_means,
    lines_over_tokens,
    ratio_legend,
    token_axis,
)
from launch.report.figures.palette import GRID, PAPER, SOFT, colour_by_ratio
from launch.report.figures.svg_rendering import FigureNumbers, FigurePlan, note_if_empty
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
    plans = [
        FigurePlan("losses", partial(losses, curves=curves), losses_numbers(curves), (3.2, 7.0))
    ]
    if any(curve.probe for curve in curves):
        n = len({curve.ratio for curve in curves})
        heights = (0.5 + 1.6 * -(-n // EMERGENCE_WIDE), 0.5 + 1.5 * -(-n // EMERGENCE_NARROW))
        draw = partial(emergence, curves=curves)
        plans.append(FigurePlan("emergence", draw, emergence_numbers(curves), heights))
    return plans


def losses(figure: Figure, wide: bool, curves: Sequence[TrainingCurve]) -> None:
    """Training loss and held-out loss of each stream against tokens seen, one line per run,
    coloured by ratio.
    """
    streams = sorted({stream for curve in curves for stream in curve.held_out})
    colours = colour_by_ratio(curve.ratio for curve in curves)
    n_panels = 1 + len(streams)
    shape = (1, n_panels) if wide else (n_panels, 1)
    train, *held_out = figure.subplots(*shape, squeeze=False).flat
    train.set_title("training text, nats per token")
    lines_over_tokens(train, [(colours[curve.ratio], block_means(curve.train)) for curve in curves])
    for axes, stream in zip(held_out, streams, strict=True):
        axes.set_title(f"held-out {stream} text")
        lines = [(curve, curve.held_out.get(stream, [])) for curve in curves]
        if any(len(points) > 1 for _, points in lines):
            lines_over_tokens(axes, [(colours[curve.ratio], points) for curve, points in lines])
        else:
            _final_losses(axes, [(curve, points, colours[curve.ratio]) for curve, points in lines])
    ratio_legend(figure, train, colours, wide)


def _final_losses(axes: Axes, lines: Sequence[tuple[TrainingCurve, LossSeries, str]]) -> None:
    """Held-out losses against the ratio, where they were measured only at the end of training."""
    for curve, points, colour in lines:
        x = [100 * curve.realised] * len(points)
        axes.plot(x, [loss for _, loss in points], "o", color=colour, mec=PAPER, ms=7)
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


def emergence(figure: Figure, wide: bool, curves: Sequence[TrainingCurve]) -> None:
    """AUROC of the best head's probe, clean against toxic held-out text, over tokens seen: a panel
    per ratio, its runs with their intervals in front of all others in grey.
    """
    colours = colour_by_ratio(curve.ratio for curve in curves)
    n_columns = min(len(colours), EMERGENCE_WIDE if wide else EMERGENCE_NARROW)
    n_rows = math.ceil(len(colours) / n_columns)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True).flat
    for i, (axes, (ratio, colour)) in enumerate(zip(panels, colours.items(), strict=False)):
        axes.set_title(f"{percent(ratio)} toxic text" if wide else percent(ratio))
        axes.axhline(0.5, color=SOFT, lw=1.0, ls=(0, (2, 3)))
        for curve in sorted(curves, key=lambda curve: curve.ratio == ratio):
            _auroc_line(axes, curve, colour if curve.ratio == ratio else None)
        token_axis(axes)
        axes.label_outer()
        is_lowest = i + n_columns >= len(colours)  # of its column; its row need not be the last
        if is_lowest:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("tokens seen")
        if i % n_columns == 0:
            axes.set_ylabel("AUROC")
    for axes in panels[len(colours) :]:
        axes.set_axis_off()


def _auroc_line(axes: Axes, curve: TrainingCurve, colour: str | None) -> None:
    """One run's AUROC, with its interval in `colour`; grey and without one if colour is None."""
    tokens = [seen for seen, _ in curve.probe]
    values = [estimate.value or 0.0 for _, estimate in curve.probe]
    if colour is None:
        axes.plot(tokens, values, "-", color=GRID, lw=1.2, zorder=1)
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
