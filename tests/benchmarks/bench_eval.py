"""probes, activations and steered generation against scikit-learn and transformers

The last lines project the rates to the evaluation of OLMo-1B by the recipe `paper`. The models run
on the GPU if there is one (gpu_check.py measures a 1B there), the probes on one thread: with more,
the many small matmuls of scikit-learn mostly wait for each other.
HEADS=n in the environment changes the number of probed heads; ONLY=probes skips the models.
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
from sklearn.preprocessing import StandardScaler

from eval.probing import logistic_probes, permutation_null
from launch.recipes import registry
from training.config import SIZES, ModelConfig

N_HEADS = int(os.environ.get("HEADS", "256"))
ONLY = os.environ.get("ONLY", "")
N_HEADS_1B = 256
# ToxiGen's 8,960 texts, split 4:1, and the head dimension of OLMo-1B.
N_TRAIN = 7168
HEADS_PER_LAYER = 16  # an evaluation probes one layer at a time
N_TEST = 1792
D_HEAD = 128
L2 = 1.0
N_PERMUTATIONS = 1000
N_PROBE_REPEATS = 2
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
PROBE_RATIO_AIM = 3.0
D_PRIMES = (0.3, 2.0)  # of the first and the last head: accuracies of about 0.56 to 0.84


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
    _compare_probes(*_separable_rows(), "nearly separable")
    train, test = _planted_rows()
    probes, peer_probes = _compare_probes(train, test, "overlapping")
    permuted_probes = _compare_permutations(train, test, peer_probes)
    if ONLY == "probes":
        return
    texts = _compare_activations()
    new_tokens = _compare_generation()
    _project(Rates(probes, permuted_probes, texts, new_tokens))


def _planted_rows() -> tuple[Rows, Rows]:
    """Gaussian rows with D_PRIMES between the labels, and features whose variances fall as 1/n in a
    random basis, as a head's do.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (N_TRAIN + N_TEST,), generator=generator)
    deviation_H = torch.arange(1, D_HEAD + 1) ** -0.5
    x_RPH = torch.empty(len(labels), N_HEADS, D_HEAD)
    for p, d_prime in enumerate(torch.linspace(*D_PRIMES, N_HEADS)):
        basis_HH = torch.linalg.qr(torch.randn(D_HEAD, D_HEAD, generator=generator))[0]
        direction_H = torch.randn(D_HEAD, generator=generator)
        direction_H *= d_prime / direction_H.norm()
        noise_RH = torch.randn(len(labels), D_HEAD, generator=generator)
        rows_RH = noise_RH + (labels[:, None] - 0.5) * direction_H
        x_RPH[:, p] = (rows_RH * deviation_H) @ basis_HH
    return Rows(x_RPH[:N_TRAIN], labels[:N_TRAIN]), Rows(x_RPH[N_TRAIN:], labels[N_TRAIN:])


def _layers(rows: Rows) -> list[Rows]:
    """The rows of each layer's heads, as an evaluation keeps and probes them."""
    return [
        Rows(x_RPH.contiguous(), rows.label_R) for x_RPH in rows.x_RPH.split(HEADS_PER_LAYER, dim=1)
    ]


def _separable_rows() -> tuple[Rows, Rows]:
    """Gaussian rows that a probe separates almost perfectly: the hardest ones for Newton steps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (N_TRAIN + N_TEST,), generator=generator)
    mix = torch.randn(N_HEADS, D_HEAD, D_HEAD, generator=generator) / D_HEAD**0.5
    noise = torch.randn(len(labels), N_HEADS, D_HEAD, generator=generator)
    x_RPH = torch.einsum("rph,phk->rpk", noise, mix).contiguous()
    direction = torch.randn(N_HEADS, D_HEAD, generator=generator) * 0.1
    x_RPH += (labels[:, None, None] - 0.5) * direction
    return Rows(x_RPH[:N_TRAIN], labels[:N_TRAIN]), Rows(x_RPH[N_TRAIN:], labels[N_TRAIN:])


def _compare_probes(train: Rows, test: Rows, kind: str) -> tuple[float, float]:
    """Probes per second of CPU time, of ours and of scikit-learn, with their test accuracy."""
    train_layers, test_layers = _layers(train), _layers(test)

    def ours() -> np.ndarray:
        accuracy = [
            logistic_probes.fit(*own, L2).correct(*other).double().mean(0)
            for own, other in zip(train_layers, test_layers, strict=True)
        ]
        return torch.cat(accuracy).numpy()

    def peer() -> np.ndarray:
        accuracy = [
            _fit_with_scikit_learn(own, other)
            for own, other in zip(train_layers, test_layers, strict=True)
        ]
        return np.concatenate(accuracy)

    accuracy, peer_accuracy = ours(), peer()  # the first calls also warm the libraries up
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(N_PROBE_REPEATS):
        seconds["ours"].append(timed(ours, time.process_time).seconds)
        seconds["peer"].append(timed(peer, time.process_time).seconds)
    rates = {name: N_HEADS / median(own) for name, own in seconds.items()}
    ratio = rates["ours"] / rates["peer"]
    largest = 100 * np.abs(accuracy - peer_accuracy).max()
    of_means = 100 * abs(accuracy.mean() - peer_accuracy.mean())
    print(f"probes: {N_HEADS} {kind} heads × {N_TRAIN:,} rows × {D_HEAD}, one CPU thread")
    print(f"  ours, weights to 3e-6 of the largest {rates['ours']:8.1f} heads/s")
    print(
        f"  scikit-learn in a loop over heads    {rates['peer']:8.1f} heads/s   "
        f"ratio {ratio:.2f}; aim at least {PROBE_RATIO_AIM:g}"
    )
    print(
        f"  test accuracy {100 * accuracy.mean():.1f} %: largest difference of a head "
        f"{largest:.2f} points, of the mean {of_means:.3f}"
    )
    _compare_objectives(train)
    return rates["ours"], rates["peer"]


def _compare_objectives(train: Rows) -> None:
    """Print how far ours and scikit-learn's best are from the optimum of one head, in float64.

    Both have the same objective: scikit-learn on standardised features, at a tolerance of 1e-10.
    """
    x_RH, labels_R = train.x_RPH[:, -1].double().numpy(), train.label_R.numpy()
    probe = logistic_probes.fit(train.x_RPH[:, -1:], train.label_R, L2)
    standard_RH = StandardScaler().fit_transform(x_RH)
    peer = LogisticRegression(C=1 / L2, tol=1e-10, max_iter=10_000).fit(standard_RH, labels_R)
    sign_R = 2 * labels_R - 1
    found = {
        "ours": (probe.weight_PH[0].numpy(), float(probe.bias_P[0])),
        "scikit-learn": (peer.coef_[0], float(peer.intercept_[0])),
    }
    for name, (weight_H, bias) in found.items():
        score_R = standard_RH @ weight_H + bias
        loss = np.logaddexp(0, -sign_R * score_R).sum() + L2 / 2 * (weight_H**2).sum()
        residual_R = 1 / (1 + np.exp(-score_R)) - labels_R
        gradient = max(abs(standard_RH.T @ residual_R + L2 * weight_H).max(), abs(residual_R.sum()))
        print(f"  {name:<13} loss {loss:.9f}, largest element of its gradient {gradient:.1e}")


def _fit_with_scikit_learn(train: Rows, test: Rows) -> np.ndarray:
    """Test accuracy per head, by the procedure of the public ITI code.

    That is one LogisticRegression per head, on raw features, with at most 1,000 iterations.
    """
    accuracy = []
    for p in range(train.x_RPH.shape[1]):
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
    evaluation = registry.named("paper").eval
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
