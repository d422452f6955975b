"""tolerances of numeric tests, derived from the arithmetic and not from one CPU

Kernels of different CPUs compute the same sums in another order, with or without fused
multiply-adds. So two correct results differ by rounding, and a tolerance has to allow for that and
for nothing else. The basis is the unit roundoff u, the largest relative error of rounding to
nearest: 2⁻²⁴ in fp32, 2⁻⁸ in bf16 (8 significant bits).

    sum of n products      |error| ≤ n·u·Σ|a·b| in any order (Higham, Accuracy and Stability of
                           Numerical Algorithms, §3.1); for data without a trend about √n·u·‖a‖·‖b‖
    k roundings in a row   relative error of a tensor (Frobenius norm) ≤ k·u; about √k·u/2, if they
                           are independent

The largest error of single elements is not bounded like that: an element near zero may lose all its
digits to cancellation. So tensors are compared by relative Frobenius norm, or by element against
the sum of the absolute values of its terms.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

U_FP32 = 2.0**-24
U_BF16 = 2.0**-8

# A forward and a backward pass of the tiny models chain about 20 roundings (two layers of four
# products, attention, norms and residuals, the loss) in either direction. Coherent errors would add
# up to 20·u each way.
N_ROUNDINGS = 40

FP32_VALUE = N_ROUNDINGS * U_FP32
"""Relative error of a hidden state, logit or loss of a tiny model in fp32: 2.4e-6."""

FP32_GRADIENT = N_ROUNDINGS * U_FP32
"""Relative Frobenius error of a parameter's gradient in fp32: 2.4e-6; 3.4e-7 was measured."""

BF16_GRADIENT = 8 * U_BF16
"""Relative Frobenius error of a gradient that is computed in bf16, against fp32: 3.1e-2.

40 independent roundings give √40·u/2 = 3.2·u = 1.2e-2 (1.6e-2 was measured); coherent ones
up to 20·u. 8·u lies between, far below the error of a wrong factor (0.25 for 3/4)."""

FP32_GRADIENT_SUM = 16 * U_FP32
"""Relative Frobenius error of a gradient where only the order of its sum over four passes differs:
9.5e-7. Three additions and a division by the number of ranks, on either side, round it."""

BF16_GRADIENT_SUM = 2.5 * U_BF16
"""As FP32_GRADIENT_SUM with passes, and at stage 0 sums, in bf16: 9.8e-3.

Eight independent roundings give √8·u/2 = 1.4·u = 5.5e-3; 3.2e-3 was measured."""

ADAMW_UPDATES = 4 * (2 * FP32_GRADIENT) ** 0.5
"""Relative Frobenius error of what AdamW has added to a parameter in a few fp32 steps: 8.8e-3.

AdamW divides each element of the gradient by its own size. So an element whose gradient is t times
the typical one has the relative error ε/t, and below t = ε its sign is chance. Of elements with a
density of about 1 near zero the mean square error is ∫ min(1, ε/t)² dt ≈ 2·ε: the norm's relative
error is √(2·ε). The factor 4 allows for errors that add up over the steps. Most of that comes from
elements so rare that the 17,000 of a tiny model hold 0.005 to 0.04 of them; without one of them
3e-6 was measured."""

ADAMW_GRADIENT = 1e-3
"""Relative error of a gradient's norm or of an attention logit after a few AdamW steps in fp32.

Both change by no more than themselves while the weights move by their updates, which are off by
ADAMW_UPDATES; and the few elements that are off are not those with a large gradient."""

ADAMW_LOSS = 1e-4
"""Relative error of a loss after a few AdamW steps in fp32.

The elements that differ most are those whose gradient is smallest, so the loss moves by no more
than lr·ε·Σ|g| per step, 3e-6 here; the rest is a margin for the curvature."""

ADAMW_BF16_LOSS = 1e-2
"""Relative difference between the losses of a few AdamW steps in bf16 and in fp32.

As for ADAMW_LOSS a step moves the loss by up to lr·ε·Σ|g|, now with ε = BF16_GRADIENT: 3e-2 per
step, if all errors had the sign of their gradient, and a hundredth of that if they are independent
(10⁴ parameters). The forward pass adds u, 4e-3, of logits of size 1 to a loss of 5.6."""

MUON_FP32_UPDATES = 6 * 3.4445**5 * FP32_GRADIENT
"""Relative Frobenius error of what Muon has added in six steps, with fp32 products: 7.0e-3.

Each of the five Newton–Schulz iterations multiplies small singular values, and the rounding errors
in their directions, by up to 3.4445 (p(σ) = 3.4445·σ − 4.7750·σ³ + 2.0315·σ⁵), 485 in all."""

MUON_BF16_UPDATES = 0.5
"""Relative Frobenius error of what Muon has added, with bf16 products.

Where a singular value is smaller than 20·u of the typical one, the direction of its update is noise
(see newton_schulz_bf16). If that is so for an eighth of the directions of both results, the error
is √(2/8) = 0.5; unrelated updates differ by √2. 0.02 to 0.05 was measured."""


def newton_schulz_bf16(matrix: Tensor) -> float:
    """Relative Frobenius error of one Newton–Schulz orthogonalisation of `matrix` in bf16.

    Each of five iterations rounds four products, 20·u in all. That is noise of the size of the
    typical singular value; in the direction of a small one it is larger by their ratio, until
    nothing but noise is left there. So the error is 20·u times the root mean square of that ratio,
    cut at 1.
    """
    singular = torch.linalg.svdvals(matrix.double())
    ratio = singular.square().mean().sqrt() / singular
    return (20 * U_BF16 * ratio).clamp(max=1).square().mean().sqrt().item()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖, Frobenius norms."""
    difference = found.double() - expected.double()
    return (difference.norm() / expected.double().norm()).item()


def largest_relative_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error of any tensor of a state."""
    assert found.keys() == expected.keys()
    return max(relative_error(found[name], expected[name]) for name in expected)


def assert_fp32_close(found: Tensor, expected: Tensor) -> None:
    """Compare values of a tiny model in fp32, absolute, by the rounding of the largest."""
    atol = FP32_VALUE * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_sum_close(found: Tensor, expected: Tensor, n_terms: int) -> None:
    """Compare fp32 results that are sums of up to `n_terms` terms, each at most the largest result.

    Absolute, by n·u of the largest: elements near zero are sums that cancel.
    """
    atol = n_terms * U_FP32 * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
