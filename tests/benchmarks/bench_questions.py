"""five-shot questions in letter form and cloze questions against lm-evaluation-harness's HFLM

Both answer the same questions with the same weights on one CPU thread, from texts to the likelihood
of each choice. The harness runs with its default of one row per pass and with PEER_BATCH rows; the
ratio is to the faster.
"""

import logging
import os
import time
from statistics import median
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import eval_contenders
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import PreTrainedTokenizerFast

from data_prep.config import TokenizerConfig
from data_prep.sources import corpus_reader
from data_prep.token_stream import tokenizer
from eval.eval_report import TextSet
from eval.inputs.benchmarks import DESCRIPTIONS, Benchmark, Lead, Question
from eval.model.batch_size import BatchSize
from eval.model.eval_session import EvalSession
from eval.model.loaded_model import LoadedModel
from eval.steering import intervention
from eval.steering.conditions import Condition
from eval.steering.measures import multiple_choice
from training.config import ModelConfig

MODEL = ModelConfig(
    d_model=256, n_layers=8, n_heads=8, d_mlp=1024, vocab_size=8192, max_sequence_length=2048
)
TOKENIZER_IDS = 1000  # of the embedded corpus, whose words are few
N_SUBJECTS = 2
N_QUESTIONS = 12  # per subject; MMLU's test split has 246 on average
N_SHOTS = 5
QUESTION_WORDS = (15, 60)
CHOICE_WORDS = (2, 12)
PEER_BATCH = 16
N_ROUNDS = 2
RATIO_AIM = 3.0


def main() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    words = " ".join(
        document.text
        for source in corpus_reader.expand(["synthetic:clean?documents=400"])
        for document in corpus_reader.read(source)
    ).split()
    config = TokenizerConfig(source="train", vocab_size=TOKENIZER_IDS)
    engine = tokenizer.train(iter([" ".join(words)]), config)
    ours, peer = eval_contenders.models(MODEL)
    loaded = LoadedModel(ours, engine, {}, 0, BatchSize(128), "")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=TokenizersTokenizer.from_str(engine.json), eos_token=config.eos
    )
    harness: Any = HFLM
    peers = {
        f"HFLM, {n} per pass": harness(pretrained=peer, tokenizer=fast, batch_size=n)
        for n in (1, PEER_BATCH)
    }
    for form, n_shots in (("letter", N_SHOTS), ("cloze", 0)):
        _compare(loaded, peers, _benchmark(form, n_shots, words))


def _benchmark(form: Any, n_shots: int, words: list[str]) -> Benchmark:
    """Questions of invented words, as long as MMLU's."""
    random = np.random.default_rng(0)

    def text(of_words: tuple[int, int]) -> str:
        start = random.integers(len(words) - of_words[1])
        return " ".join(words[start : start + random.integers(*of_words)])

    def question(number: str, subject: str, lead: Lead) -> Question:
        choices = tuple(text(CHOICE_WORDS) for _ in range(4))
        if form == "letter":
            listed = "".join(f"\n{letter}. {c}" for letter, c in zip("ABCD", choices, strict=True))
            context = f"{text(QUESTION_WORDS)}?{listed}\nAnswer:"
            choices = tuple("ABCD")
        else:
            context = f"Question: {text(QUESTION_WORDS)}?\nAnswer:"
        return Question(number, context, choices, int(random.integers(4)), subject, lead)

    questions = []
    for subject in map(str, range(N_SUBJECTS)):
        examples = [question("", subject, Lead()) for _ in range(n_shots)]
        shots = tuple(f"{q.context} {q.choices[q.answer]}\n\n" for q in examples)
        lead = Lead(DESCRIPTIONS[form].format(subject=subject), shots)
        questions += [question(f"{subject}-{i}", subject, lead) for i in range(N_QUESTIONS)]
    nothing = TextSet(setting="", uri="", n_read=0, n_used=0, left_out={}, other_words={})
    return Benchmark(form, questions, nothing)


def _compare(loaded: LoadedModel, peers: dict[str, Any], benchmark: Benchmark) -> None:
    seconds: dict[str, list[float]] = {}
    nats: dict[str, np.ndarray] = {}
    for _ in range(N_ROUNDS):  # in turns, so that a slow minute slows all
        for name in ("ours", *peers):
            started = time.process_time()
            nats[name] = (
                _ours(loaded, benchmark) if name == "ours" else _theirs(peers[name], benchmark)
            )
            seconds.setdefault(name, []).append(time.process_time() - started)
    n = len(benchmark.questions)
    fastest = min(median(seconds[name]) for name in peers)
    ratio = fastest / median(seconds["ours"])
    print(
        f"{benchmark.form}, {benchmark.n_shots} examples: {n} questions of {N_SUBJECTS} subjects, "
        f"{MODEL.n_parameters:,} parameters, one CPU thread"
    )
    for name, of_rounds in seconds.items():
        difference = np.abs(nats[name] - nats["ours"]).max()
        print(
            f"  {name:<22} {n / median(of_rounds):8.1f} questions/s   |Δ nats| ≤ {difference:.1e}"
        )
    print(f"  ratio {ratio:.2f}; aim at least {RATIO_AIM:g}")


def _ours(loaded: LoadedModel, benchmark: Benchmark) -> np.ndarray:
    no_store: Any = None
    session = EvalSession(loaded=loaded, store=no_store, seed=0, advance=lambda n: None)
    unsteered = intervention.no_shift(loaded.model.shape)
    condition = Condition("plain", [], unsteered, (0.0,), "last")
    return multiple_choice.answer(session, benchmark, condition)["nats"][:, :, 0]


def _theirs(peer: Any, benchmark: Benchmark) -> np.ndarray:
    requests = [
        Instance(
            "loglikelihood",
            {},
            (question.lead.text(benchmark.n_shots) + question.context, f" {choice}"),
            i,
        )
        for question in benchmark.questions
        for i, choice in enumerate(question.choices)
    ]
    results = peer.loglikelihood(requests, disable_tqdm=True)
    return np.array([nats for nats, _ in results]).reshape(len(benchmark.questions), -1)


if __name__ == "__main__":
    main()
