"""adapter that lets lm-evaluation-harness run its tasks on our model, steered or not

The harness requests likelihoods and continuations; this module answers with our model and
tokenizer, shifted at all positions. A folder written by bake_steering.py does not need it: `lm-eval
run --model hf --model_args pretrained=FOLDER` gives the same numbers.

The harness wants a token before the first one of a text. It is the one that the model's tokenizer
puts there, or else the end-of-document id, which stood there in training.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from data_prep.core import telemetry
from data_prep.core.errors import ConfigurationError
from eval.model import batch_size, generation
from eval.model.loaded_model import LoadedModel
from eval.stats import intervals
from eval.steering import intervention
from eval.steering.intervention import Shift
from eval.steering.measures import loglikelihood
from eval.steering.measures.loglikelihood import LogLikelihoods, ScoredEnd

MAX_NEW_TOKENS = 256  # of tasks that do not set a limit


class SteeredLM(TemplateLM):
    """The loaded model, steered at one strength, as the harness's model interface."""

    def __init__(self, loaded: LoadedModel, shift: Shift, strength: float) -> None:
        super().__init__()
        self._loaded = loaded
        self._shift = shift
        self._strength = strength

    @property
    def eot_token_id(self) -> int:
        return self._loaded.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._loaded.prefix[-1] if self._loaded.prefix else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        return self._loaded.tokenizer.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        prefix = () if add_special_tokens is False else self._loaded.prefix
        return [*prefix, *self._loaded.encode_ends([string])[0]]

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        result = self._loglikelihoods([ScoredEnd(context, end) for _, context, end in requests])
        return list(
            zip(result.nats_ES[:, 0].tolist(), result.is_greedy_ES[:, 0].tolist(), strict=True)
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, as the sum over windows as long as the model's
        positions.
        """
        max_length = self._loaded.model.shape.max_sequence_length
        rows: list[ScoredEnd] = []
        request_of_row: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, max_length, 1):
                rows.append(ScoredEnd(*make_disjoint_window(window)))
                request_of_row.append(number)
        sums = [0.0] * len(requests)
        nats = self._loglikelihoods(rows).nats_ES[:, 0].tolist()
        for number, of_row in zip(request_of_row, nats, strict=True):
            sums[number] += of_row
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, up to the first of the task's stop strings."""
        by_length: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            settings = request.args[1]
            if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
                raise ConfigurationError(
                    f"the task {request.task_name} samples at random, but only greedy decoding is "
                    "supported; choose another task, or use a baked folder with the harness's own "
                    "model (bake_steering.py)"
                )
            by_length.setdefault(settings.get("max_gen_toks", MAX_NEW_TOKENS), []).append(i)
        texts: dict[int, str] = {}
        for n_new, same_length in by_length.items():
            continuations = self._continue([requests[i].args[0] for i in same_length], n_new)
            texts |= dict(zip(same_length, continuations, strict=True))
        return [
            _cut_at_stop(texts[i], request.args[1].get("until") or [])
            for i, request in enumerate(requests)
        ]

    def _continue(self, contexts: list[str], n_new: int) -> list[str]:
        """Contexts of similar length decode together; no row affects another."""
        loaded = self._loaded
        sampling = generation.Sampling(
            n_new, "greedy", 1.0, loaded.tokenizer.eos_id, loaded.tokenizer.n_ids
        )
        rows = loaded.encode(contexts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        tokens: list[list[int]] = []

        def sample(n_rows: int) -> None:
            strength_B = torch.full((len(rows),), self._strength)
            with intervention.steered(loaded.model, self._shift, strength_B, "all") as steering:
                tokens[:] = generation.sample(
                    loaded.model,
                    [rows[i] for i in order],
                    order,
                    sampling,
                    steering,
                    generation.Slots(n_rows),
                )

        longest = max(map(len, rows), default=0)
        loaded.batch_size.with_rows(
            len(rows),
            sample,
            bytes_per_row=batch_size.decoding_bytes(
                loaded.model.shape, longest, n_new, loaded.dtype
            ),
        )
        texts = dict(zip(order, map(loaded.tokenizer.decode, tokens), strict=True))
        return [texts[i] for i in range(len(rows))]

    def _loglikelihoods(self, ends: list[ScoredEnd]) -> LogLikelihoods:
        with telemetry.progress(len(ends), f"α = {self._strength:g}", "rows") as bar:
            return loglikelihood.loglikelihoods(
                self._loaded, ends, self._shift, (self._strength,), bar.update
            )


def run(
    model: SteeredLM,
    tasks: Sequence[Any],
    *,
    seed: int,
    limit: int | None = None,
    include_path: str | None = None,
) -> dict[str, Any]:
    """The harness's results by task. tasks: names of the harness's own tasks or of those in the
    folder include_path, or task configurations.
    """
    names = [task for task in tasks if isinstance(task, str)]
    output: Any = simple_evaluate(
        model=model,
        tasks=list(tasks),
        task_manager=_task_manager(names, include_path),
        limit=limit,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        bootstrap_iters=intervals.N_RESAMPLES,
    )
    return output["results"]


def _cut_at_stop(text: str, stop: str | Sequence[str]) -> str:
    for string in [stop] if isinstance(stop, str) else stop:
        text = text.partition(string)[0]
    return text


def _task_manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """A task manager that knows all these names. Listing the harness's own 14,000 tasks takes many
    seconds, so they are included only if one of them is needed.
    """
    unknown: list[str] = []
    for include_defaults in (False, True):
        manager = TaskManager(include_path=include_path, include_defaults=include_defaults)
        unknown = sorted(set(names) - set(manager.all_tasks))
        if not unknown:
            return manager
    raise ConfigurationError(
        f"--tasks {' '.join(unknown)}: lm-evaluation-harness has no task of that name; `lm-eval ls "
        "tasks` lists its own, --include_path adds those in a folder"
    )
