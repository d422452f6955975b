"""what this machine's compiler makes of the 1B's blocks and loss for sm_90: kernels, registers

The limits are those of tests/training/model/test_sm90_kernels.py. One core compiles; the GPU is not
used.
"""

import subprocess
from typing import Any

import sm90_report

from gpu_check_parts.recorder import Recorder

NAME = "kernels for sm_90"
LIMIT_SECONDS = 15.0


def record(recorder: Recorder) -> None:
    """Compile and check, or record why that is skipped."""
    if reason := sm90_report.missing():
        recorder.skipped(NAME, reason)
        return
    try:
        report = sm90_report.compile_model(recorder.work / "sm90", LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        recorder.skipped(NAME, f"compiling takes more than {LIMIT_SECONDS:.0f} s")
        return
    except RuntimeError as error:  # another version of torch may not do without a device
        print(error)
        recorder.skipped(NAME, " ".join(str(error).split())[-400:])
        return
    record_report(recorder, report)


def record_report(recorder: Recorder, report: dict[str, Any]) -> None:
    """Check a report of sm90_compiler.py."""
    for kind, counts in report["counts"].items():
        is_whole = counts == {"n_graphs": 1, "n_graph_breaks": 0}
        note = f"{counts['n_graphs']} graphs, {counts['n_graph_breaks']} breaks"
        recorder.check(f"sm_90: all layers are one graph, {kind}", is_whole, note)
    for graph, limits in sm90_report.BLOCKS.items():
        _check_calls(recorder, report, graph, limits)
    for graph in sm90_report.CHUNKS:
        calls = report["graphs"][graph]["calls"]
        recorder.check(f"sm_90: {graph} is one kernel", len(calls) == 1, ", ".join(calls))
    for graph in report["graphs"]:
        each = sm90_report.configurations(report, graph)
        registers = max((one["registers"] for one in each), default=0)
        spilled = max((one["spilled_bytes"] for one in each), default=0)
        recorder.check(
            f"sm_90: registers of {graph}",
            bool(each) and not spilled and registers <= sm90_report.MAX_REGISTERS,
            f"at most {registers} a thread, {spilled} bytes spilled; limits "
            f"{sm90_report.MAX_REGISTERS} and 0",
        )


def _check_calls(
    recorder: Recorder, report: dict[str, Any], graph: str, limits: sm90_report.Calls
) -> None:
    calls = report["graphs"][graph]["calls"]
    n_triton = len(sm90_report.triton_kernels(report, graph))
    n_matmuls = calls.count("extern_kernels.mm")
    n_others = len(calls) - n_triton - n_matmuls  # attention, and nothing else
    recorder.check(
        f"sm_90: calls of {graph}",
        n_triton <= limits.n_triton and n_matmuls == limits.n_matmuls and n_others == 1,
        f"{n_triton} Triton kernels, {n_matmuls} matmuls, {n_others} others; limits "
        f"{limits.n_triton}, {limits.n_matmuls}, 1",
    )
