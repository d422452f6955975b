"""probes, activations and steered generation against scikit-learn and transformers

The last lines project the rates to the evaluation of OLMo-1B by the recipe `paper`. The models run
on the GPU if there is one (gpu_check.py measures a 1B there), the probes on one thread: with more,
the many small matmuls of scikit-learn mostly wait for each other.
HEADS=n in the environment changes the number of probed heads.
"""

import os
import time
from statistics import median, quantiles
from typing import NamedTuple

os.environ.update(
    HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"
)

import eval_contenders
import numpy as np
import torch
from eval_contenders import ROWS_PER_PROMPT, timed
from sklearn.linear_model import LogisticRegression

from eval.probing import logistic_probes, permutation_null
from launch import recipes
from training.config import SIZES, ModelConfig

N_HEADS = int(os.environ.get("HEADS", "8"))
N_HEADS_1B = 256
# ToxiGen's 8,960 texts in parts of 16 and 5 of 25, and the head dimension of OLMo-1B.
N_TRAIN = 5734
N_TEST = 1792
D_HEAD = 128
L2 = 1.0
N_PERMUTATIONS = 1000
N_PROBE_REPEATS = 3
MODEL = ModelConfig(
    d_model=256, n_layers=8, n_heads=8, d_mlp=1024, vocab_size=8192, max_sequence_length=256
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODEL_1B = ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=50_304)
N_PROMPTS = 8
N_ROWS = N_PROMPTS * ROWS_PER_PROMPT
N_PROMPT_TOKENS = 24
N_NEW_TOKENS = 32
N_ROUNDS = 12
N_TEXTS = 500
TEXT_TOKENS = (12, 36)  # the shortest, and one more than the longest
SEQUENCE_TOKENS_1B = 2048
H100_FLOPS_PER_SECOND = 989e12
ASSUMED_MFU = 0.3
STEERING_AIM = 0.03  # of the time of the same rows unsteered
RATIO_AIM = 1.0  # to the peer of each comparison


class Rows(NamedTuple):
    """Activations and labels of some rows."""

    x_RPH: torch.Tensor
    label_R: torch.Tensor


class Rates(NamedTuple):
    """What one CPU thread does per second; texts and tokens on MODEL."""

    probes: float
    permuted_probes: float
    texts: float
    new_tokens: float


def main() -> None:
    torch.set_num_threads(1)
    train, test = _planted_rows()
    probes, peer_probes = _compare_probes(train, test)
    permuted_probes = _compare_permutations(train, test, peer_probes)
    texts = _compare_activations()
    new_tokens = _compare_generation()
    _project(Rates(probes, permuted_probes, texts, new_tokens))


def _planted_rows() -> tuple[Rows, Rows]:
    """Gaussian rows with d' ≈ 1 between the labels in each head and correlated features."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (N_TRAIN + N_TEST,), generator=generator)
    mix = torch.randn(N_HEADS, D_HEAD, D_HEAD, generator=generator) / D_HEAD**0.5
    noise = torch.randn(len(labels), N_HEADS, D_HEAD, generator=generator)
    x_RPH = torch.einsum("rph,phk->rpk", noise, mix)
    direction = torch.randn(N_HEADS, D_HEAD, generator=generator) * 0.1
    x_RPH += (labels[:, None, None] - 0.5) * direction
    return Rows(x_RPH[:N_TRAIN], labels[:N_TRAIN]), Rows(x_RPH[N_TRAIN:], labels[N_TRAIN:])


def _compare_probes(train: Rows, test: Rows) -> tuple[float, float]:
    """Probes per second, of ours and of scikit-learn."""
    probes = logistic_probes.fit(*train, L2)  # the first calls also warm the libraries up
    peer_accuracy = _fit_with_scikit_learn(train, test)
    our_seconds = []
    peer_seconds = []
    for _ in range(N_PROBE_REPEATS):
        our_seconds.append(timed(lambda: logistic_probes.fit(*train, L2)).seconds)
        peer_seconds.append(timed(lambda: _fit_with_scikit_learn(train, test)).seconds)
    ours = N_HEADS / median(our_seconds)
    peer = N_HEADS / median(peer_seconds)
    accuracy = probes.correct(*test).double().mean(0).numpy()
    largest = 100 * np.abs(accuracy - peer_accuracy).max()
    of_means = 100 * abs(accuracy.mean() - peer_accuracy.mean())
    print(f"probes: {N_HEADS} heads × {N_TRAIN:,} rows × {D_HEAD}, one CPU thread")
    print(f"  ours, Newton, float32 then float64   {ours:8.1f} heads/s")
    print(
        f"  scikit-learn in a loop over heads    {peer:8.1f} heads/s   ratio {ours / peer:.2f}; "
        f"aim at least {RATIO_AIM:g}"
    )
    print(
        f"  test accuracy: largest difference of a head {largest:.2f} points, "
        f"of the mean {of_means:.3f}"
    )
    return ours, peer


def _fit_with_scikit_learn(train: Rows, test: Rows) -> np.ndarray:
    """Test accuracy per head, by the procedure of the public ITI code.

    That is one LogisticRegression per head, on raw features, with at most 1,000 iterations.
    """
    accuracy = []
    for p in range(N_HEADS):
        probe = LogisticRegression(max_iter=1000)
        probe.fit(train.x_RPH[:, p].numpy(), train.label_R.numpy())
        accuracy.append(probe.score(test.x_RPH[:, p].numpy(), test.label_R.numpy()))
    return np.array(accuracy)


def _compare_permutations(train: Rows, test: Rows, peer_probes: float) -> float:
    """Probes of permuted labels per second."""

    def labels_and_permutations(labels: torch.Tensor) -> np.ndarray:
        names = [str(i) for i in range(len(labels))]
        permuted = permutation_null.permuted_labels(labels.tolist(), names, N_PERMUTATIONS, 0)
        return np.vstack([labels.numpy(), permuted])

    train_labels = labels_and_permutations(train.label_R)
    test_labels = labels_and_permutations(test.label_R)
    null = timed(
        lambda: permutation_null.null_accuracy(
            train.x_RPH, train_labels, test.x_RPH, test_labels, L2
        )
    )
    accuracy = logistic_probes.fit(*train, L2).correct(*test).double().mean(0).numpy()
    gap = 100 * (null.result[:, 0].mean() - accuracy.mean())
    ours = N_PERMUTATIONS * N_HEADS / null.seconds
    print(f"label permutations: {N_PERMUTATIONS:,} × {N_HEADS} heads in {null.seconds:.1f} s")
    print(f"  ours, one factorisation per head     {ours:8,.0f} probes/s")
    print(
        f"  scikit-learn, from the loop above    {peer_probes:8,.1f} probes/s   "
        f"ratio {ours / peer_probes:,.0f}; aim at least {RATIO_AIM:g}"
    )
    print(
        f"  {N_HEADS_1B} heads would take {N_HEADS_1B / N_HEADS * null.seconds:.0f} s; the mean "
        f"accuracy of its probes differs by {gap:+.2f} points from the logistic ones"
    )
    return ours


def _compare_activations() -> float:
    """Texts per second whose heads are read at the last token.

    The public ITI code reads one text at a time.
    """
    ours, peer = eval_contenders.models(MODEL, DEVICE)
    rng = np.random.default_rng(0)
    lengths = rng.integers(*TEXT_TOKENS, N_TEXTS)
    rows = {str(i): rng.integers(1, MODEL.vocab_size, n).tolist() for i, n in enumerate(lengths)}
    our_time = timed(lambda: eval_contenders.read_heads(ours, rows).values_LRNH.flatten(2))
    peer_time = timed(lambda: eval_contenders.read_heads_with_hooks(peer, rows))
    difference = float((our_time.result - peer_time.result).abs().max())
    print(
        f"activations: {MODEL.n_parameters:,} parameters, {N_TEXTS:,} texts of {TEXT_TOKENS[0]} to "
        f"{TEXT_TOKENS[1] - 1} tokens; largest difference {difference:.1e}"
    )
    print(f"  ours, texts of one length together   {N_TEXTS / our_time.seconds:8,.0f} texts/s")
    print(
        f"  hooks on transformers, one by one    {N_TEXTS / peer_time.seconds:8,.0f} texts/s   "
        f"ratio {peer_time.seconds / our_time.seconds:.2f}; aim at least {RATIO_AIM:g}"
    )
    return N_TEXTS / our_time.seconds


def _compare_generation() -> float:
    """New tokens per second of steered generation."""
    ours, peer = eval_contenders.models(MODEL, DEVICE)
    task = eval_contenders.decoding(MODEL, N_PROMPTS, N_PROMPT_TOKENS, N_NEW_TOKENS)

    def unsteered() -> list[list[int]]:
        return eval_contenders.generate_unsteered(ours, task)

    def steered() -> list[list[int]]:
        return eval_contenders.generate_steered(ours, task)

    def by_hooks() -> list[list[int]]:
        return eval_contenders.generate_with_hooks(peer, task)

    n_same = sum(a == b for a, b in zip(steered(), by_hooks(), strict=True))
    contenders = [
        ("unsteered", unsteered),
        ("steered", steered),
        ("hooks", by_hooks),
    ]
    seconds: dict[str, list[float]] = {name: [] for name, _ in contenders}
    # a CPU may be shared, so there only the seconds of this process count
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    for round_ in range(N_ROUNDS):
        for name, generate in contenders if round_ % 2 else reversed(contenders):
            seconds[name].append(timed(generate, clock).seconds)
    print(
        f"generation: {MODEL.n_parameters:,} parameters, {N_PROMPTS} prompts × {ROWS_PER_PROMPT} "
        f"strengths × {N_NEW_TOKENS} new tokens, greedy; {n_same} of {N_ROWS} continuations "
        "are the same"
    )
    return _print_generation(seconds)


def _print_generation(seconds: dict[str, list[float]]) -> float:
    """Print the rates, and return that of steered generation."""
    rates = {name: N_ROWS * N_NEW_TOKENS / median(own) for name, own in seconds.items()}
    low, middle, high = quantiles(
        [b / a - 1 for a, b in zip(seconds["unsteered"], seconds["steered"], strict=True)], n=4
    )
    fastest = min(seconds["steered"]) / min(seconds["unsteered"]) - 1
    print(f"  ours, unsteered, prompts shared      {rates['unsteered']:8,.0f} tokens/s")
    print(
        f"  ours, all heads steered              {rates['steered']:8,.0f} tokens/s   "
        f"overhead {middle:+.1%} (quartiles of pairs {low:+.1%} {high:+.1%}; "
        f"of the fastest {fastest:+.1%}); aim at most {STEERING_AIM:.0%}"
    )
    print(
        f"  hooks on transformers' generate      {rates['hooks']:8,.0f} tokens/s   "
        f"ratio {rates['steered'] / rates['hooks']:.2f}; aim at least {RATIO_AIM:g}"
    )
    return rates["steered"]


def _project(rates: Rates) -> None:
    """Hours of one thread for the evaluation of one OLMo-1B by the recipe `paper`.

    Work of the model scales with its number of parameters.
    """
    evaluation = recipes.named("paper").eval
    size = MODEL_1B.n_parameters / MODEL.n_parameters
    n_strengths = len(evaluation.steering.strengths)
    n_prompts = evaluation.generation.n_prompts
    n_continuations = n_prompts * evaluation.generation.samples_per_prompt * n_strengths
    n_new_tokens = n_continuations * evaluation.generation.max_new_tokens
    n_texts = evaluation.probing.n_rows
    n_permutations = evaluation.probing.n_permutations
    n_heads = MODEL_1B.n_layers * MODEL_1B.n_heads
    seconds = {
        f"{n_texts:,} texts read": size * n_texts / rates.texts,
        f"{n_heads} probes": n_heads / rates.probes,
        f"{n_permutations:,} permutations": n_heads * n_permutations / rates.permuted_probes,
        f"{n_continuations:,} continuations": size * n_new_tokens / rates.new_tokens,
    }
    print("projection to one OLMo-1B in the recipe `paper`, one CPU thread at the rates above")
    for name, own in seconds.items():
        print(f"  {name:<37}{own / 3600:8.2f} h")
    # Held-out sequences of two streams at every strength, forward only: 2N FLOPs per token.
    n_sequences = 2 * evaluation.capability.cross_entropy_sequences * n_strengths
    n_tokens = (
        n_sequences * SEQUENCE_TOKENS_1B
        + n_texts * N_PROMPT_TOKENS
        + n_continuations * N_PROMPT_TOKENS
        + n_new_tokens
    )
    flops = 2 * MODEL_1B.n_parameters * n_tokens
    h100_seconds = flops / ASSUMED_MFU / H100_FLOPS_PER_SECOND
    print(
        f"  {n_sequences:,} sequences of {SEQUENCE_TOKENS_1B:,} tokens and all other work of the "
        f"model are {flops / 1e15:.2f} PFLOP: {h100_seconds:.0f} s of an H100 at "
        f"{ASSUMED_MFU:.0%} (computed, not measured)"
    )


if __name__ == "__main__":
    main()
