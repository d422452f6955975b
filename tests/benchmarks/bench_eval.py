"""Evaluation beside its peers: probes against a loop of scikit-learn, permutations, activations and
steered generation against hooks on transformers, and what that makes of a whole evaluation of
OLMo-1B.

One thread for all: with more, scikit-learn's many small products spend most of their time waiting
for each other.
"""

import os
import time
from collections.abc import Callable
from statistics import median, quantiles

os.environ.update(
    HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"
)

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from transformers import OlmoConfig, OlmoForCausalLM

from eval.config import ProbingConfig
from eval.model import generation
from eval.model.batching import BatchSize
from eval.probing import activations, logistic_probes, permutation_null
from eval.steering import intervention
from launch import recipes
from training.config import SIZES, ModelConfig
from training.model.hf_export import hugging_face_config, to_hugging_face
from training.model.olmo import OLMo

N_HEADS = int(os.environ.get("HEADS", "8"))  # of the paper's 256
N_TRAIN, N_TEST, SIZE = 5734, 1792, 128  # ToxiGen's 8,960 texts, 16 : 5 of 25; OLMo-1B's heads
N_PERMUTATIONS = 1000
MODEL = ModelConfig(
    d_model=256, n_layers=8, n_heads=8, d_mlp=1024, vocab_size=8192, max_sequence_length=256
)
MODEL_1B = ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=50_304)
N_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 32, 24, 32
N_ROUNDS = 12
N_ROWS = 500


def main() -> None:
    torch.set_num_threads(1)
    heads, permutations = _probes()
    rows = _activations()
    tokens = _generation()
    _project(heads, permutations, rows, tokens)


def _probes() -> tuple[float, float]:
    """Gaussian rows in which the label is worth d' ≈ 1 in each head, features correlated as a
    head's are.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (N_TRAIN + N_TEST,), generator=generator)
    mix = torch.randn(N_HEADS, SIZE, SIZE, generator=generator) / SIZE**0.5
    x_RPH = torch.einsum(
        "rph,phk->rpk", torch.randn(len(labels), N_HEADS, SIZE, generator=generator), mix
    )
    x_RPH += (labels[:, None, None] - 0.5) * torch.randn(N_HEADS, SIZE, generator=generator) * 0.1
    train, test = (x_RPH[:N_TRAIN], labels[:N_TRAIN]), (x_RPH[N_TRAIN:], labels[N_TRAIN:])

    fitted, peer = (
        logistic_probes.fit(*train, 1.0),
        _loop(train, test),
    )  # and the libraries are warm
    seconds = [
        (_timed(lambda: logistic_probes.fit(*train, 1.0))[0], _timed(lambda: _loop(train, test))[0])
        for _ in range(3)
    ]
    ours, theirs = (median(of) for of in zip(*seconds, strict=True))
    accuracy = fitted.correct(*test).double().mean(0).numpy()
    print(f"probes: {N_HEADS} heads × {N_TRAIN:,} rows × {SIZE}, one CPU thread")
    print(f"  ours, Newton, float32 then float64   {N_HEADS / ours:8.1f} heads/s")
    print(
        f"  scikit-learn in a loop over heads    {N_HEADS / theirs:8.1f} heads/s   ratio {theirs / ours:.2f}"
    )
    print(f"  test accuracy: largest difference of a head {100 * np.abs(accuracy - peer).max():.2f} points, of the mean "
          f"{100 * abs(accuracy.mean() - peer.mean()):.3f}")  # fmt: skip

    names = [str(i) for i in range(len(labels))]
    parts = [
        np.vstack(
            [
                part.numpy(),
                permutation_null.permuted_labels(
                    part.tolist(), names[: len(part)], N_PERMUTATIONS, 0
                ),
            ]
        )
        for part in (train[1], test[1])
    ]
    null_seconds, null = _timed(
        lambda: permutation_null.max_t(
            permutation_null.null_accuracy(train[0], parts[0], test[0], parts[1], 1.0)
        )
    )
    print(f"label permutations: {N_PERMUTATIONS:,} × {N_HEADS} heads in {null_seconds:.1f} s")
    print(
        f"  ours, one factor a head              {N_PERMUTATIONS * N_HEADS / null_seconds:8,.0f} probes/s"
    )
    ratio = N_PERMUTATIONS * theirs / null_seconds
    print(
        f"  scikit-learn, from the loop above    {N_HEADS / theirs:8,.1f} probes/s   ratio {ratio:,.0f}"
    )
    print(f"  256 heads would take {256 / N_HEADS * null_seconds:.0f} s; mean accuracy of its probes "
          f"{100 * (null.accuracy_P.mean() - accuracy.mean()):+.2f} points beside the logistic ones")  # fmt: skip
    return N_HEADS / ours, N_PERMUTATIONS * N_HEADS / null_seconds


def _loop(
    train: tuple[torch.Tensor, torch.Tensor], test: tuple[torch.Tensor, torch.Tensor]
) -> np.ndarray:
    """As the public ITI code does: one LogisticRegression a head, on raw features, at most 1,000
    iterations.
    """
    x, y = train[0].numpy(), train[1].numpy()
    x_test, y_test = test[0].numpy(), test[1].numpy()
    found = [
        LogisticRegression(max_iter=1000).fit(x[:, p], y).score(x_test[:, p], y_test)
        for p in range(x.shape[1])
    ]
    return np.array(found)


def _generation() -> float:
    """Greedy, fp32, prompts of one length, no early end: the same tokens from both, and the same
    work asked of both.
    """
    ours, peer = _models()
    peer.generation_config.eos_token_id, peer.generation_config.pad_token_id = None, 0
    tokens = torch.randint(
        1, MODEL.vocab_size, (N_PROMPTS, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    shift_LD = torch.randn(
        MODEL.n_layers, MODEL.d_model, generator=torch.Generator().manual_seed(1)
    )
    strength_B = torch.full((N_PROMPTS,), 0.5)
    sampling = generation.Sampling(
        NEW_TOKENS, "greedy", 1.0, MODEL.vocab_size + 1, MODEL.vocab_size
    )
    rows, keys = tokens.tolist(), list(range(N_PROMPTS))

    def plain() -> list[list[int]]:
        return generation.sample(ours, rows, keys, sampling)

    def steered() -> list[list[int]]:
        with intervention.steered(ours, shift_LD, strength_B, "last"):
            return plain()

    def add(layer: int) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = inputs[0].clone()
            x[:, -1] += 0.5 * shift_LD[layer]
            return (x,)

        return hook

    @torch.inference_mode()
    def theirs() -> list[list[int]]:
        layers = peer.model.layers
        handles = [
            layers[i].self_attn.o_proj.register_forward_pre_hook(add(i))
            for i in range(MODEL.n_layers)
        ]
        try:
            made = peer.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
            )
        finally:
            for handle in handles:
                handle.remove()
        return made[:, PROMPT_TOKENS:].tolist()

    same = np.mean([a == b for a, b in zip(steered(), theirs(), strict=True)])
    runs = [("plain", plain), ("steered", steered), ("generate", theirs)]
    seconds = {name: [] for name, _ in runs}
    for round_ in range(N_ROUNDS):
        for name, run in runs if round_ % 2 else reversed(runs):
            seconds[name].append(_timed(run, time.process_time)[0])
    rate = {name: N_PROMPTS * NEW_TOKENS / median(of) for name, of in seconds.items()}
    print(
        f"generation: {MODEL.n_parameters:,} parameters, {N_PROMPTS} prompts × {NEW_TOKENS} new tokens, greedy; {same:.0%} alike"
    )
    print(f"  ours, unsteered                      {rate['plain']:8,.0f} tokens/s")
    low, middle, high = quantiles(
        [b / a - 1 for a, b in zip(seconds["plain"], seconds["steered"], strict=True)], n=4
    )
    fastest = min(seconds["steered"]) / min(seconds["plain"]) - 1
    print(f"  ours, all heads steered              {rate['steered']:8,.0f} tokens/s   overhead {middle:+.1%} (quartiles of pairs "
          f"{low:+.1%} {high:+.1%}; fastest by fastest {fastest:+.1%})")  # fmt: skip
    print(
        f"  hooks on transformers' generate      {rate['generate']:8,.0f} tokens/s   ratio {rate['steered'] / rate['generate']:.2f}"
    )

    return rate["steered"]


def _models() -> tuple[OLMo, OlmoForCausalLM]:
    ours = OLMo(MODEL).eval()
    ours.initialise(0)
    ours.requires_grad_(False)
    peer = OlmoForCausalLM(OlmoConfig(**hugging_face_config(MODEL, 0, "float32"))).eval()
    peer.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
    return ours, peer


def _activations() -> float:
    """Every head's output at the last token of short texts. The public ITI code reads one text at a
    time.
    """
    ours, peer = _models()
    draw = np.random.default_rng(0)
    rows = [draw.integers(1, MODEL.vocab_size, n).tolist() for n in draw.integers(12, 36, N_ROWS)]
    names = [str(i) for i in range(N_ROWS)]
    seen: list[torch.Tensor] = []

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        handles = [
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _, inputs: seen.append(inputs[0][0, -1])
            )
            for layer in peer.model.layers
        ]
        for row in rows:
            peer(torch.tensor([row]))
        for handle in handles:
            handle.remove()
        return torch.stack(seen).view(N_ROWS, MODEL.n_layers, -1).transpose(0, 1)

    seconds, read = _timed(
        lambda: activations.collect(
            ours,
            dict(zip(names, rows, strict=True)),
            ProbingConfig(),
            batch=BatchSize(128),
            advance=lambda n: None,
        ).values_LRNH.flatten(2)
    )
    peers, expected = _timed(theirs)
    difference = float((read - expected).abs().max())
    print(
        f"activations: {MODEL.n_parameters:,} parameters, {N_ROWS:,} texts of 12 to 35 tokens; largest difference {difference:.1e}"
    )
    print(f"  ours, texts of one length together   {N_ROWS / seconds:8,.0f} texts/s")
    print(
        f"  hooks on transformers, one by one    {N_ROWS / peers:8,.0f} texts/s   ratio {peers / seconds:.2f}"
    )
    return N_ROWS / seconds


def _project(heads: float, permutations: float, rows: float, tokens: float) -> None:
    """Of the recipe `paper` on OLMo-1B, in one thread's hours as measured above; the model's part
    scales with its parameters.
    """
    asked, size = recipes.named("paper").eval, MODEL_1B.n_parameters / MODEL.n_parameters
    continuations = (
        asked.generation.n_prompts
        * asked.generation.samples_per_prompt
        * len(asked.steering.strengths)
    )
    n_heads = MODEL_1B.n_layers * MODEL_1B.n_heads
    hours = {
        f"{asked.probing.n_rows:,} texts read": size * asked.probing.n_rows / rows / 3600,
        f"{n_heads} probes": n_heads / heads / 3600,
        f"{asked.probing.n_permutations:,} permutations": n_heads
        * asked.probing.n_permutations
        / permutations
        / 3600,
        f"{continuations:,} continuations": size
        * continuations
        * asked.generation.max_new_tokens
        / tokens
        / 3600,
    }
    # two streams' windows of 2048 tokens at every strength, forward alone: 2N FLOPs a token
    windows = 2 * asked.capability.cross_entropy_sequences * len(asked.steering.strengths)
    flops = (
        2
        * MODEL_1B.n_parameters
        * (
            windows * 2048
            + asked.probing.n_rows * 24
            + continuations * (24 + asked.generation.max_new_tokens)
        )
    )
    print(
        "projection: the recipe `paper`'s evaluation of one OLMo-1B, one CPU thread at the rates above"
    )
    for name, of in hours.items():
        print(f"  {name:<37}{of:8.2f} h")
    print(f"  {windows:,} windows of 2,048 tokens, and all else of the model, are {flops / 1e15:.2f} PFLOP: "
          f"{flops / 0.3 / 989e12:.0f} s of an H100 at 30 % (computed, not measured)")  # fmt: skip


def _timed(
    run: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, object]:
    start = clock()
    result = run()
    return clock() - start, result


if __name__ == "__main__":
    main()
