"""report stage of a sweep: its finished runs → data page and report, also while it grows

The report is written after every evaluation and once more at the end, each time from all records
there are. So an interim report differs from the last one only in the runs that it says are missing.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from data_prep.build import stream_paths
from data_prep.config import StreamName
from data_prep.core import storage, telemetry
from data_prep.core.errors import HormesisError
from data_prep.core.records import digest
from eval import eval_report
from eval.eval_report import EvalReport
from eval.toy import toy_result
from launch import run_states
from launch.experiment import Experiment
from launch.report.text import text_overlap
from launch.report.text.text_overlap import TextOverlap
from launch.run_states import RunState
from training.run_record import run_uri

DONE = ("report", "done.txt")  # holds the digest of the records that the report was made of
STREAMS: tuple[StreamName, ...] = ("clean", "toxic")
LOWER_PRIORITY = 10  # niceness of the thread that writes interim reports


def write(root: str, sweep: Experiment) -> None:
    """Write the report of the runs that are trained and evaluated."""
    from launch.report.pages import index_page

    states = run_states.read(root, sweep)
    done = [
        (state.record, report)
        for state in states
        if state.record and (report := state.report or _with_fewer_conditions(root, sweep, state))
    ]
    storage.delete(storage.join(root, *DONE))
    uri = index_page.write(root, sweep, done, data_cards(root, sweep))
    n_done = sum(state.report is not None for state in states)
    telemetry.logger.info("report of %d of %d runs: %s", n_done, len(states), uri)
    if all(state.report for state in states):
        content = _digest_of_records(root, states, text_overlap.read(root, sweep))
        storage.write(storage.join(root, *DONE), content.encode())


def _with_fewer_conditions(root: str, sweep: Experiment, state: RunState) -> EvalReport | None:
    """What is known of a run that has not been evaluated under all conditions."""
    return eval_report.find_with_fewer(run_uri(root, state.run.run_id), sweep.eval)


def can_be_written(root: str, sweep: Experiment) -> bool:
    """Whether a run that the report compares is trained and evaluated."""
    return any(state.report and state.run.arm == "plain" for state in run_states.read(root, sweep))


def is_written(root: str, sweep: Experiment) -> bool:
    """Whether every run is evaluated, the overlap of the texts is measured as far as the settings
    ask for it, and the report was made from these records.
    """
    states = run_states.read(root, sweep)
    overlaps = text_overlap.read(root, sweep)
    wanted = sweep.data.overlap_search_ratio
    if not all(state.report for state in states) or text_overlap.is_missing(overlaps, wanted):
        return False
    uri = storage.join(root, *DONE)
    content = _digest_of_records(root, states, overlaps)
    return storage.exists(uri) and storage.read(uri).decode() == content


def _digest_of_records(root: str, states: list[RunState], overlaps: list[TextOverlap]) -> str:
    records = [record for overlap in overlaps for record in overlap.by_stream.values()]
    records += [result for _, result in toy_result.read_all(root)]
    return digest([state.record for state in states], [state.report for state in states], records)


def write_data_page(root: str, sweep: Experiment) -> None:
    """Write the data page, and print its table."""
    from data_prep.cards.stream_table import stream_table
    from launch.report.pages import data_page

    has_report = storage.exists(storage.join(root, "report", "index.html"))
    cards = data_cards(root, sweep)
    telemetry.console().print(stream_table(cards))
    uri = data_page.write(root, sweep, cards, with_comparison=has_report)
    telemetry.console().print(f"data card: {uri}", soft_wrap=True)


def data_cards(root: str, sweep: Experiment) -> dict[str, Any]:
    """The data card of each stream, which is built: clean, toxic, then meda-clean and so on."""
    from data_prep.cards import data_card

    cards: dict[str, Any] = {}
    for arm, data in sweep.stream_settings().items():
        uris: dict[StreamName, str] = {
            name: storage.join(root, stream_paths.stream_uri(data, name)) for name in STREAMS
        }
        of_arm = data_card.load_all(uris)
        prefix = "" if arm == "plain" else f"{arm}-"
        cards |= {f"{prefix}{name}": card for name, card in of_arm.items()}
    return cards


class InterimReports:
    """Writes the report while the sweep goes on, one at a time, in a thread of lower priority.

    A request during a write is served by one more write after it, which reads all records then. An
    error is logged: the report at the end will raise it. On exit no further one is begun.
    """

    def __init__(self, root: str, sweep: Experiment) -> None:
        self._root = root
        self._sweep = sweep
        self._writer = ThreadPoolExecutor(1, "interim report", _lower_priority)
        self._last: Future[None] | None = None

    def __enter__(self) -> "InterimReports":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)

    def request(self) -> None:
        """Have the report written soon."""
        if self._last is None or self._last.running() or self._last.done():
            self._last = self._writer.submit(self._write)

    def _write(self) -> None:
        try:
            write(self._root, self._sweep)
        except Exception as error:
            # an error that is not ours is a fault of the program: its traceback is wanted
            is_ours = isinstance(error, HormesisError)
            telemetry.logger.warning(
                "the interim report was not written: %s", error, exc_info=None if is_ours else error
            )


def _lower_priority() -> None:
    # Linux has a priority per thread; elsewhere it stays
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWER_PRIORITY)
