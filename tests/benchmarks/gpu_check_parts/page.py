"""the results of gpu_check.py as a page of Markdown, and as lines on the terminal"""

from dataclasses import asdict, dataclass, field
from typing import Any

MARKS = {True: "✓", False: "✗", None: ""}
CONVENTION = (
    "Tokens per second are those of one GPU. MFU is (6N + 12·L·D·T) FLOPs per token, forward and "
    "backward with full attention (PaLM, appendix B), over the vendor's dense bf16 peak; N counts "
    "the tied embedding once. Recomputed activations and FP8 do not change it."
)


@dataclass
class PartResult:
    """A part's status and what it has measured so far."""

    name: str
    purpose: str
    status: str = "not started"
    seconds: float = 0.0
    limit_seconds: float = 0.0
    measurements: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_faults(self) -> int:
        """Checks that do not hold, and errors."""
        return sum(
            m["kind"] == "error" or (m["kind"] == "check" and not m["holds"])
            for m in self.measurements
        )

    @property
    def is_good(self) -> bool:
        return self.status == "done" and not self.n_faults

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"n_faults": self.n_faults}


def line(measurement: dict[str, Any]) -> str:
    """A measurement as a line of text."""
    words = [MARKS[_holds(measurement)], measurement["name"] + ":", _value(measurement)]
    note = measurement.get("note", "")
    if measurement["kind"] in ("number", "check", "bar") and note and measurement.get("unit"):
        note = f"({note})"
    return " ".join(word for word in (*words, note) if word)


def summary(results: list[PartResult]) -> str:
    """One line per part."""
    lines = []
    for result in results:
        faults = f", {result.n_faults} faults" if result.n_faults else ""
        lines.append(f"{result.name:22}{result.seconds:6.1f} s  {result.status}{faults}")
    return "\n".join(lines)


def render(header: dict[str, Any], results: list[PartResult]) -> str:
    """The page: parts and their status, what is wrong, then all measurements."""
    lines = ["# GPU check", ""]
    lines += [", ".join(f"{name} {value}" for name, value in header.items()), "", CONVENTION, ""]
    lines += ["| part | status | seconds | faults |", "|---|---|---|---|"]
    lines += [
        f"| {result.name} | {_cell(result.status)} | {result.seconds:.1f} | {result.n_faults} |"
        for result in results
    ]
    wrong = [
        f"- {result.name}: {line(m)}"
        for result in results
        for m in result.measurements
        if m["kind"] in ("error", "skipped") or _holds(m) is False
    ]
    if wrong:
        lines += ["", "## Faults, missed bars and what was skipped", "", *wrong]
    for result in results:
        if result.measurements:
            lines += ["", f"## {result.name}: {result.purpose}", ""]
            lines += ["| | measurement | value | note |", "|---|---|---|---|", *_rows(result)]
    return "\n".join(lines) + "\n"


def _rows(result: PartResult) -> list[str]:
    return [
        f"| {MARKS[_holds(m)]} | {_cell(m['name'])} | {_value(m)} | {_cell(m.get('note', ''))} |"
        for m in result.measurements
    ]


def _holds(measurement: dict[str, Any]) -> bool | None:
    return False if measurement["kind"] == "error" else measurement.get("holds")


def _value(measurement: dict[str, Any]) -> str:
    value = measurement.get("value")
    if value is None:
        return {"error": "error", "skipped": "skipped"}.get(measurement["kind"], "")
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 0.01 or value == 0:
        text = f"{value:.4g}"
    else:
        text = f"{value:.2e}"
    return f"{text} {measurement['unit']}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
