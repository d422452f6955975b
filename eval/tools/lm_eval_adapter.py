"""lm-evaluation-harness on the live model, steered or not: any of its tasks, on the weights that
were trained

The harness asks for likelihoods and continuations; this answers them with our own model and
tokenizer, the shift at all positions. A baked folder (baking.py) needs none of it: `lm-eval run
--model hf --model_args pretrained=FOLDER` gives the same.

An id of its own where a text begins: the harness wants a token before the first, and the
end-of-document id is what stood there in training.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from eval.config import EvalConfig
from eval.model import generation
from eval.model.loaded_model import Subject
from eval.stats import intervals
from eval.steering import intervention, loglikelihood
from eval.steering.loglikelihood import Row

MAX_NEW_TOKENS = 256  # where a task does not say


class Harness(TemplateLM):
    """The subject as the harness sees it, with the shift at one strength."""

    def __init__(
        self, subject: Subject, shift_LD: Tensor, strength: float, config: EvalConfig
    ) -> None:
        super().__init__()
        self._subject, self._shift_LD, self._strength, self._config = (
            subject,
            shift_LD,
            strength,
            config,
        )

    @property
    def eot_token_id(self) -> int:
        return self._subject.tokenizer.eos_id

    @property
    def tokenizer_name(self) -> str:
        return self._subject.tokenizer.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self._subject.tokenizer.encode_batch([string]).ids.tolist()

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        rows = [
            loglikelihood.row(context, end, self._subject.model, self._strength)
            for _, context, end in requests
        ]
        return [(found.log, found.is_greedy) for found in self._likelihoods(rows)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        room, texts = (
            self._subject.model.config.max_sequence_length,
            [request.args[0] for request in requests],
        )
        rows, owners = list[Row](), list[int]()
        for number, text in enumerate(texts):
            for window in get_rolling_token_windows(
                self.tok_encode(text), self.eot_token_id, room, 1
            ):
                rows.append(
                    loglikelihood.row(
                        *make_disjoint_window(window), self._subject.model, self._strength
                    )
                )
                owners.append(number)
        sums = [0.0] * len(texts)
        for owner, found in zip(owners, self._likelihoods(rows), strict=True):
            sums[owner] += found.log
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, up to the first of the task's stop strings."""
        by_length: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            asked = request.args[1]
            if asked.get("do_sample") and asked.get("temperature", 1.0) > 0:
                raise ConfigurationError(
                    f"the task {request.task_name} draws at random; only greedy continuations are supported"
                )
            by_length.setdefault(asked.get("max_gen_toks", MAX_NEW_TOKENS), []).append(i)
        texts: dict[int, str] = {}
        for n_new, of_length in by_length.items():
            texts |= dict(
                zip(
                    of_length,
                    self._continued([requests[i].args[0] for i in of_length], n_new),
                    strict=True,
                )
            )
        return [
            _until(texts[i], request.args[1].get("until") or [])
            for i, request in enumerate(requests)
        ]

    def _continued(self, contexts: list[str], n_new: int) -> list[str]:
        """In batches of like length: the padding is at the left, so no row feels its neighbours."""
        subject = self._subject
        sampling = generation.Sampling(
            n_new, "greedy", 1.0, subject.tokenizer.eos_id, subject.tokenizer.n_ids
        )
        rows, texts = subject.encode(contexts), dict[int, str]()

        def work(batch: Sequence[int]) -> None:
            strength_B = torch.full((len(batch),), self._strength)
            with intervention.steered(
                subject.model, self._shift_LD, strength_B, "all", self._config.probing.site
            ):
                drawn = generation.sample(subject.model, [rows[i] for i in batch], batch, sampling)
            texts.update(zip(batch, map(subject.tokenizer.decode, drawn), strict=True))

        subject.batch.each(sorted(range(len(rows)), key=lambda i: len(rows[i])), work)
        return [texts[i] for i in range(len(rows))]

    def _likelihoods(self, rows: list[Row]) -> list[loglikelihood.Likelihood]:
        with telemetry.progress(len(rows), f"α = {self._strength:g}", "rows") as bar:
            return loglikelihood.likelihoods(
                self._subject.model,
                rows,
                self._shift_LD,
                self._config.probing.site,
                self._subject.batch,
                bar.update,
            )


def _until(text: str, until: str | Sequence[str]) -> str:
    for stop in [until] if isinstance(until, str) else until:
        text = text.partition(stop)[0]
    return text


def run(
    subject: Subject,
    tasks: Sequence[Any],
    shift_LD: Tensor,
    strength: float,
    config: EvalConfig,
    *,
    limit: int | None = None,
    include_path: str | None = None,
) -> dict[str, Any]:
    """The harness's results by task: names of its own, of those in the folder include_path, or task
    configurations.
    """
    manager = _manager([task for task in tasks if isinstance(task, str)], include_path)
    made: Any = simple_evaluate(
        model=Harness(subject, shift_LD, strength, config),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        random_seed=config.seed,
        numpy_random_seed=config.seed,
        torch_random_seed=config.seed,
        bootstrap_iters=intervals.N_RESAMPLES,
    )
    return made["results"]


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """One that knows all these. The harness's own 14,000 take it many seconds to list: only where
    one of them is asked for.
    """
    for include_defaults in (False, True):
        manager = TaskManager(include_path=include_path, include_defaults=include_defaults)
        unknown = sorted(set(names) - set(manager.all_tasks))
        if not unknown:
            return manager
    raise ConfigurationError(
        f"--tasks {' '.join(unknown)}: lm-evaluation-harness has none of that name; `lm-eval ls tasks` lists its own, "
        "--include_path adds those of a folder"
    )
