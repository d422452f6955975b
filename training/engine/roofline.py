"""ENTRY: print the shortest time of a training step's parts on an H200, in Markdown

Counts, not measurements: the FLOPs of each product, and the bytes that each kernel reads and writes
once. The kernels are those that torch's compiler generates for sm_90 (test_sm90_kernels.py) and
DeepSpeed's of stage 1 on one rank. A part takes the longer of its two times, at rates that large
matrix products and copies reach on an H200, so the sum is a bound: launches, tails and caches that
miss come on top, and the attention kernels are known to reach 400 to 500 TFLOP/s.

    python training/engine/roofline.py        OLMo-1B, 16 rows of 2,048 tokens, 4 micro-batches

u: bytes of one bf16 tensor as wide as the model, of all positions. N: parameters.
"""

from typing import NamedTuple

from training.config import SIZES, ModelConfig
from training.engine.memory import CHUNK_LOGITS

MATMUL_FLOPS = 785e12  # per second, dense bf16: 79 % of the vendor's peak
COPY_BYTES = 4.3e12  # per second: 90 % of the vendor's bandwidth
N_ROWS, LENGTH, N_PASSES, VOCABULARY = 16, 2048, 4, 50_304


class Part(NamedTuple):
    """A part of the work of one micro-batch."""

    name: str
    flops: float = 0.0
    n_bytes: float = 0.0

    @property
    def seconds(self) -> float:
        """The shortest time."""
        return max(self.flops / MATMUL_FLOPS, self.n_bytes / COPY_BYTES)


def parts(model: ModelConfig, n_rows: int, length: int, n_passes: int) -> list[Part]:
    """The parts of a micro-batch of `n_rows` sequences; a step has `n_passes` of them."""
    n_positions = n_rows * length
    width, n_layers, n = model.d_model, model.n_layers, model.n_parameters
    u = 2 * n_positions * width
    n_logits = n_positions * model.vocab_size
    n_chunks = -(-n_logits // CHUNK_LOGITS)
    embedding = model.vocab_size * width
    return [
        Part("matrix products of the blocks", flops=6 * n_positions * (n - embedding)),
        Part("matrix products of the loss", flops=6 * n_positions * embedding),
        # causal: half of the scores; the backward pass computes them again
        Part("attention", flops=(1 + 2.5) * 2 * n_positions * length * width * n_layers),
        # forward: norms 2 and 3, rotation 4, SwiGLU 3 F/D, residual 4; backward: 5, 4, 6, 5 F/D
        Part("norms, rotation, SwiGLU", n_bytes=(28 + 8 * model.d_mlp / width) * u * n_layers),
        # logits read, gradient written; per chunk the output matrix's gradient is added in fp32
        Part("loss", n_bytes=2 * 2 * n_logits + n_chunks * 12 * embedding),
        Part("embedding, last norm", n_bytes=30 * u),
        # bf16 to fp32, and added
        Part("gradient sums", n_bytes=(2 + 4 + 4 + 4 + 4) * n),
        # norm 4, AdamW 28, bf16 weights 6, sums cleared 4
        Part("optimizer, per micro-batch", n_bytes=42 * n / n_passes),
    ]


def table(model: ModelConfig, n_rows: int, length: int, n_passes: int) -> str:
    """The parts, their sum and the tokens per second that it allows, as a Markdown table."""
    lines = ["| part | TFLOP | GB | ms at the ceiling | measured ms |", "|---|---|---|---|---|"]
    rows = parts(model, n_rows, length, n_passes)
    total = Part("sum", sum(part.flops for part in rows), sum(part.n_bytes for part in rows))
    seconds = sum(part.seconds for part in rows)
    for part in rows:
        lines.append(_row(part, part.seconds))
    lines.append(_row(total, seconds))
    n_tokens = n_rows * length
    lines.append(f"| tokens/s | | | {n_tokens / seconds:,.0f} | not yet measured |")
    return "\n".join(lines)


def _row(part: Part, seconds: float) -> str:
    tera = f"{part.flops / 1e12:.1f}" if part.flops else ""
    giga = f"{part.n_bytes / 1e9:.1f}" if part.n_bytes else ""
    return f"| {part.name} | {tera} | {giga} | {1e3 * seconds:.1f} | not yet measured |"


if __name__ == "__main__":
    olmo_1b = ModelConfig(**SIZES["olmo-1b"]._asdict(), vocab_size=VOCABULARY)
    print(table(olmo_1b, N_ROWS, LENGTH, N_PASSES))
