"""The profile sorts kernels by what they do, and measuring the loop leaves no trace in torch."""

import pytest
import torch
import train_contenders
import train_loop
from scipy.stats import binom
from train_profile import ELEMENTWISE, IDLE, kind_of, profile_step

from data_prep.core.settings import evolve
from training.config import ModelConfig
from training.engine import process_group

TINY = evolve(
    train_contenders.settings_of("small"),
    {
        "model": ModelConfig(d_model=32, n_layers=1, n_heads=2, d_mlp=64, vocab_size=264),
        "sequence_length": 16,
        "compute.precision": "fp32",
    },
)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("triton_red_fused__to_copy_native_layer_norm_0", ELEMENTWISE),
        ("triton_poi_fused_add_copy_fill_zero_mul_3", ELEMENTWISE),
        ("triton_per_fused__log_softmax_flash_2", ELEMENTWISE),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "GEMM"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "GEMM"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", ELEMENTWISE),
    ],
)
def test_the_profile_names_the_kind_of_a_kernel(kernel: str, kind: str):
    assert kind_of(kernel) == kind


def test_a_profile_accounts_for_the_whole_step():
    process_group.join()
    profiled = profile_step(TINY, train_contenders.shape_of(TINY))
    assert sum(profiled.kinds.values()) == pytest.approx(profiled.wall_seconds, rel=0.2)
    assert 0 < profiled.loss_seconds < profiled.wall_seconds
    assert 0 < profiled.optimizer_seconds < profiled.wall_seconds
    assert profiled.kinds["GEMM"] > 0 and IDLE in profiled.kinds


def test_measuring_the_loop_leaves_determinism_as_it_was():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        train_loop.measure_overhead(TINY, train_contenders.shape_of(TINY), 1)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_the_binomial_quantile_is_that_of_scipy():
    for n in (1, 2, 3, 10, 25):
        for share in (0.001, 0.025, 0.5, 0.975):
            assert train_loop._binomial_quantile(share, n) == binom.ppf(share, n, 0.5), (n, share)
