"""an evaluation on a GPU gives the numbers of a CPU within rounding; skipped where there is none"""

import numpy as np
import pytest
import torch
from tolerances import FP32_VALUE

from eval.config import ProbingConfig
from eval.model import generation, numerics
from eval.model.batch_size import BatchSize
from eval.model.generation import Sampling
from eval.probing import activations, logistic_probes, permutation_null
from eval.steering import intervention
from eval.steering.intervention import Shift

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def on(device, model):
    numerics.set_exact_statistics(device)
    return model.to(device)


def labelled_features():
    generator = torch.Generator().manual_seed(0)
    labels_R = torch.arange(300) % 2
    x_RPH = torch.randn(300, 6, 16, generator=generator)
    x_RPH[:, 0, 0] += labels_R
    return x_RPH, labels_R


def test_probes_are_those_of_a_cpu():
    x_RPH, labels_R = labelled_features()
    of_cpu = logistic_probes.fit(x_RPH, labels_R, 1.0)
    of_gpu = logistic_probes.fit(x_RPH.to(CUDA), labels_R.to(CUDA), 1.0)
    largest = max(1.0, float(of_cpu.weight_PH.abs().max()))
    assert (of_cpu.weight_PH - of_gpu.weight_PH.cpu()).abs().max() <= 2e-5 * largest


def test_the_null_is_that_of_a_cpu():
    x_RPH, labels_R = labelled_features()
    names = [str(i) for i in range(len(labels_R))]
    permuted = permutation_null.permuted_labels(labels_R.tolist(), names, 50, 0)
    labels_BR = np.vstack([labels_R.numpy(), permuted])
    of_cpu, of_gpu = (
        permutation_null.null_accuracy(x, labels_BR, x, labels_BR, 1.0)
        for x in (x_RPH, x_RPH.to(CUDA))
    )
    assert abs(of_cpu - of_gpu).max() <= 2 / len(labels_R)


def test_activations_are_those_of_a_cpu(model, token_rows):
    rows = {str(i): row for i, row in enumerate(token_rows)}
    of_cpu, of_gpu = (
        activations.collect(
            on(device, model), rows, ProbingConfig(), batch=BatchSize(4), advance=lambda n: None
        ).values_LRNH.cpu()
        for device in (CPU, CUDA)
    )
    assert (of_cpu - of_gpu).norm() <= FP32_VALUE * of_cpu.norm()


@pytest.mark.parametrize("positions", ["last", "all"])
def test_steered_tokens_are_those_of_a_cpu(model, token_rows, positions):
    shift = Shift(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)))
    strength_B = torch.arange(len(token_rows)) % 3
    sampling = Sampling(10, "nucleus", 0.9, eos_id=0, n_ids=60)

    def tokens(device):
        with intervention.steered(on(device, model), shift, strength_B, positions) as steering:
            keys = range(len(token_rows))
            return generation.sample(model, token_rows, keys, sampling, steering)

    assert tokens(CPU) == tokens(CUDA)
