"""EvalSession: loaded model, stored measurements, seed and progress of one evaluation"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.model.loaded_model import LoadedModel
from eval.model.measurement_store import Arrays, MeasurementStore


@dataclass(frozen=True, kw_only=True)
class EvalSession:
    """One evaluation under way.

    seed: of every random draw. store: the measurements that are finished. advance: is called with
    the number of rows that have been processed, for the progress bar.
    """

    loaded: LoadedModel
    store: MeasurementStore
    seed: int
    advance: Callable[[int], object]

    def get_or_measure(
        self,
        name: str,
        depends_on: Sequence[Any],
        measure: Callable[[], Arrays],
        *,
        n_rows: int = 0,
    ) -> Arrays:
        """The arrays of `measure`, or those that are stored under `name` and `depends_on`; then
        the progress bar advances by the measurement's `n_rows` at once. All depend on the seed.
        """
        return self.store.get_or_measure(
            name, [self.seed, *depends_on], measure, lambda: self.advance(n_rows)
        )

    def has_measured(self, name: str, depends_on: Sequence[Any]) -> bool:
        """Whether `get_or_measure` would find arrays."""
        return self.store.holds(name, [self.seed, *depends_on])
