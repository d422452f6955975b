"""figures of training: losses against tokens, and when the attribute becomes readable"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from data_prep.core import storage
from eval.stats import roc
from eval.stats.estimate import Estimate
from launch.report.figures.axes import (
    Losses,
    by_colour,
    key,
    name_ratios,
    over_tokens,
    thin,
    token_axis,
)
from launch.report.figures.svg_rendering import GRID, PAPER, SOFT, Numbers, note_if_empty
from launch.report.text.number_format import NOT_MEASURED, percent
from training.run_record import RunRecord, run_uri

EMERGENCE_WIDE, EMERGENCE_NARROW = 3, 2  # panels in a row


class Curve(NamedTuple):
    """One run over training, as (tokens seen, nats per token), in order; held_out by stream. probe:
    (tokens seen, AUROC).
    """

    ratio: float
    realised: float
    train: Losses
    held_out: dict[str, Losses]
    probe: Sequence[tuple[int, Estimate]] = ()  # training/trainer/validation.py


def curve(root: str, record: RunRecord, confidence: float) -> Curve:
    """The run's losses over training, from its metrics.jsonl (training/metrics/metrics_log.py);
    where that is absent, the final ones.
    """
    uri = storage.join(run_uri(root, record.config.run_id), "metrics.jsonl")
    lines = (
        [json.loads(line) for line in storage.read(uri).splitlines()] if storage.exists(uri) else []
    )
    train, probe, held_out = (
        {},
        {},
        {final.stream: {record.n_tokens: final.loss} for final in record.held_out},
    )
    for line in lines:
        tokens = (
            record.config.mixture.rows_before(line["step"]) * record.config.train.sequence_length
        )
        if "probe" in line:
            probe[tokens] = roc.hanley_mcneil(
                line["auroc"], line["n_windows"], confidence=confidence
            )
            continue
        losses = held_out.setdefault(line["held_out"], {}) if "held_out" in line else train
        losses[tokens] = line["loss"]
    by_stream = {stream: sorted(losses.items()) for stream, losses in held_out.items()}
    return Curve(
        record.config.toxic_ratio,
        record.realised_toxic_ratio,
        sorted(train.items()),
        by_stream,
        sorted(probe.items()),
    )


def losses(figure: Figure, wide: bool, curves: Sequence[Curve]) -> None:
    """Training loss and held-out loss of each stream against tokens seen, one line a run, coloured
    by ratio. Held-out losses that were measured only at the end stand against the ratio instead.
    """
    streams = sorted({stream for curve in curves for stream in curve.held_out})
    colour = by_colour(curve.ratio for curve in curves)
    panels = 1 + len(streams)
    train, *held_out = figure.subplots(
        1 if wide else panels, panels if wide else 1, squeeze=False
    ).flat
    train.set_title("training text, nats per token")
    over_tokens(train, [(colour[curve.ratio], thin(curve.train)) for curve in curves])
    for axes, stream in zip(held_out, streams, strict=True):
        lines = [(curve, curve.held_out.get(stream, [])) for curve in curves]
        axes.set_title(f"held-out {stream} text")
        if any(len(points) > 1 for _, points in lines):
            over_tokens(axes, [(colour[curve.ratio], points) for curve, points in lines])
            continue
        for curve, points in lines:
            at = [100 * curve.realised] * len(points)
            axes.plot(
                at, [loss for _, loss in points], "o", color=colour[curve.ratio], mec=PAPER, ms=7
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share / 100)))
        axes.set_xlabel("share of toxic text")
        note_if_empty(axes, NOT_MEASURED)
    name_ratios(train, colour)
    key(figure, train, 8 if wide else 3)


def losses_numbers(curves: Sequence[Curve]) -> Numbers:
    rows, parts = [], []
    for of in curves:
        lines = {"training": thin(of.train)} | {
            f"held-out {stream}": points for stream, points in sorted(of.held_out.items())
        }
        rows += [
            (of.ratio, text, tokens, loss)
            for text, points in lines.items()
            for tokens, loss in points
        ]
        ends = ", ".join(f"{text} {points[-1][1]:.3f}" for text, points in lines.items() if points)
        parts.append(f"{percent(of.ratio)}: {ends or NOT_MEASURED}")
    return Numbers(
        ("toxic_ratio", "text", "tokens", "nats_per_token"),
        rows,
        f"Losses against tokens. At the end, {'; '.join(parts)}.",
    )


def emergence(figure: Figure, wide: bool, curves: Sequence[Curve]) -> None:
    """AUROC of the best head's probe on held-out text of the two streams against tokens seen: a
    panel a ratio, its runs with their intervals in front of all the others.
    """
    colour = by_colour(curve.ratio for curve in curves)
    columns = min(len(colour), EMERGENCE_WIDE if wide else EMERGENCE_NARROW)
    grid = figure.subplots(
        math.ceil(len(colour) / columns), columns, squeeze=False, sharex=True, sharey=True
    )
    for i, (axes, (ratio, of)) in enumerate(zip(grid.flat, colour.items(), strict=False)):
        axes.set_title(f"{percent(ratio)} toxic text" if wide else percent(ratio))
        axes.axhline(0.5, color=SOFT, lw=1.0, ls=(0, (2, 3)))
        for curve in sorted(curves, key=lambda curve: curve.ratio == ratio):
            tokens, values = (
                [t for t, _ in curve.probe],
                [estimate.value for _, estimate in curve.probe],
            )
            if curve.ratio != ratio:
                axes.plot(tokens, values, "-", color=GRID, lw=1.2, zorder=1)
                continue
            low, high = (
                [getattr(estimate, end) for _, estimate in curve.probe] for end in ("low", "high")
            )
            axes.fill_between(tokens, low, high, color=of, alpha=0.2, lw=0, zorder=2)
            axes.plot(tokens, values, "-o", color=of, lw=1.5, ms=3.5, zorder=3)
        token_axis(axes)
        axes.label_outer()
        if i + columns >= len(
            colour
        ):  # the lowest of its column, though its row need not be the last
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("tokens seen")
        if not axes.get_subplotspec().colspan.start:  # type: ignore[union-attr]
            axes.set_ylabel("AUROC")
    for axes in grid.flat[len(colour) :]:
        axes.set_axis_off()


def emergence_numbers(curves: Sequence[Curve]) -> Numbers:
    rows = [
        (of.ratio, tokens, e.value, e.low, e.high, e.n) for of in curves for tokens, e in of.probe
    ]
    last = [f"{percent(of.ratio)} {of.probe[-1][1].value:.2f}" for of in curves if of.probe]
    alt = f"AUROC of the best head over training, a panel for each share of toxic text. At the end: {', '.join(last)}."
    return Numbers(("toxic_ratio", "tokens", "auroc", "low", "high", "n_windows"), rows, alt)
