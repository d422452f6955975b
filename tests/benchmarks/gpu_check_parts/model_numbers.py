"""loss, gradients, attention and packed documents on the device, against fp32 on the CPU

A bf16 result is judged by that of transformers' OLMo in bf16: both round, and ours should not be
further from the fp32 result than theirs.
"""

from typing import Any, NamedTuple

import eval_contenders
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import OlmoConfig, OlmoForCausalLM

from gpu_check_parts.recorder import Recorder
from training.config import ModelConfig, TrainComputeConfig
from training.model import attention, compilation
from training.model.hf_export import from_hugging_face, hugging_face_config, to_hugging_face
from training.model.loss import OLMoForTraining

FP32_LIMIT = 1e-4  # relative error of loss and gradient; fp32 on CPU and GPU differ by the order
BF16_LOSS_LIMIT = 2e-3
BF16_GRADIENT_LIMIT = 5e-2
PEER_FACTOR = 1.5  # of transformers' own error in bf16
ATTENTION_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
EOS_ID = 0
Z_LOSS = 1e-4


class ModelOptions(NamedTuple):
    """How our model computes; documents: attention stays within them."""

    dtype: torch.dtype = torch.float32
    is_compiled: bool = False
    z_loss: float = 0.0
    documents: bool = False


PLAIN = ModelOptions()


class LossAndGradients(NamedTuple):
    """Loss per token and all gradients of a batch, on the CPU in fp32."""

    loss: float
    gradients: dict[str, Tensor]

    def gradient_error(self, reference: "LossAndGradients") -> float:
        """‖g − g_ref‖ / ‖g_ref‖ over all parameters."""
        squares = [
            ((self.gradients[name].double() - g.double()).square().sum(), g.double().square().sum())
            for name, g in reference.gradients.items()
        ]
        error, size = (torch.stack(part).sum().sqrt() for part in zip(*squares, strict=True))
        return float(error / size)

    def loss_error(self, reference: "LossAndGradients") -> float:
        return abs(self.loss - reference.loss) / abs(reference.loss)


def run(recorder: Recorder) -> None:
    config, tokens_BT = _model_and_tokens(recorder)
    weights = _weights(config)
    cpu = torch.device("cpu")
    reference = _ours(config, weights, tokens_BT, cpu)
    peer = _transformers(config, weights, tokens_BT, cpu)
    recorder.at_most(
        "reference against transformers, fp32 on the CPU: gradient",
        peer.gradient_error(reference),
        FP32_LIMIT,
        f"loss differs by {peer.loss_error(reference):.1e}",
    )
    with recorder.item("fp32"):
        for name, options in _variants(recorder, PLAIN).items():
            result = _ours(config, weights, tokens_BT, recorder.device, options)
            _record(recorder, f"fp32, {name}", result, reference, FP32_LIMIT, FP32_LIMIT)
    with recorder.item("bf16"):
        theirs = _transformers(config, weights, tokens_BT, recorder.device, torch.bfloat16)
        error = theirs.gradient_error(reference)
        recorder.number("transformers in bf16: gradient's error", error, "", "for comparison")
        limit = min(BF16_GRADIENT_LIMIT, PEER_FACTOR * error)
        for name, options in _variants(recorder, ModelOptions(torch.bfloat16)).items():
            result = _ours(config, weights, tokens_BT, recorder.device, options)
            _record(recorder, f"bf16, {name}", result, reference, BF16_LOSS_LIMIT, limit)
    with recorder.item("z-loss"):
        options = ModelOptions(z_loss=Z_LOSS)
        result = _ours(config, weights, tokens_BT, recorder.device, options)
        expected = _ours(config, weights, tokens_BT, cpu, options)
        _record(recorder, "fp32, z-loss", result, expected, FP32_LIMIT, FP32_LIMIT)
    with recorder.item("documents"):
        _check_documents(recorder, config, weights, tokens_BT)
    _check_attention(recorder)


def _model_and_tokens(recorder: Recorder) -> tuple[ModelConfig, Tensor]:
    if recorder.is_tiny:
        config = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_mlp=128, vocab_size=512)
        shape = (2, 32)
    else:  # heads of the 1B's width
        config = ModelConfig(d_model=512, n_layers=4, n_heads=4, d_mlp=2048, vocab_size=50_304)
        shape = (4, 512)
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(1, config.vocab_size, shape, generator=generator)
    ends = torch.rand(shape, generator=generator) < 8 / shape[1]
    return config, torch.where(ends, EOS_ID, tokens_BT)


def _weights(config: ModelConfig) -> dict[str, Tensor]:
    model = OLMoForTraining(config)
    model.initialise(0)
    return model.state_dict()


def _variants(recorder: Recorder, options: ModelOptions) -> dict[str, ModelOptions]:
    """Eager and compiled; the compiler of a CPU would take longer than everything else."""
    if recorder.device.type == "cpu":
        return {"eager": options}
    return {"eager": options, "compiled": options._replace(is_compiled=True)}


def _ours(
    config: ModelConfig,
    weights: dict[str, Tensor],
    tokens_BT: Tensor,
    device: torch.device,
    options: ModelOptions = PLAIN,
) -> LossAndGradients:
    model = OLMoForTraining(config, z_loss=options.z_loss)
    model.load_state_dict(weights)
    model.to(device, options.dtype)
    precision = "bf16" if options.dtype is torch.bfloat16 else "fp32"
    compiled = "on" if options.is_compiled else "off"
    compute = TrainComputeConfig(precision=precision, compile=compiled)
    compilation.prepare(model, compute, device)
    torch.set_float32_matmul_precision("highest")  # fp32 is compared with fp32
    n_predictions = tokens_BT.numel() - len(tokens_BT)
    weight_B = torch.full((len(tokens_BT),), 1 / n_predictions, device=device)
    starts_K = None
    if options.documents:
        starts_K = attention.document_starts(tokens_BT, EOS_ID).to(device)
    total, loss_B = model(tokens_BT.to(device), weight_B, starts_K)
    total.backward()
    gradients = {name: _on_cpu(parameter.grad) for name, parameter in model.named_parameters()}
    return LossAndGradients(float(loss_B.sum()) / n_predictions, gradients)


def _transformers(
    config: ModelConfig,
    weights: dict[str, Tensor],
    tokens_BT: Tensor,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> LossAndGradients:
    peer: Any = OlmoForCausalLM(OlmoConfig(**hugging_face_config(config, EOS_ID, "float32")))
    peer.load_state_dict(to_hugging_face(weights), strict=False)
    peer.to(device)
    eval_contenders.convert(peer, dtype)
    tokens_BT = tokens_BT.to(device)
    loss = peer(input_ids=tokens_BT, labels=tokens_BT).loss
    loss.backward()
    gradients = {
        name: _on_cpu(parameter.grad)
        for name, parameter in peer.named_parameters()
        if parameter.grad is not None
    }
    return LossAndGradients(float(loss.detach()), from_hugging_face(gradients))


def _on_cpu(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.float().cpu()


def _record(
    recorder: Recorder,
    name: str,
    result: LossAndGradients,
    reference: LossAndGradients,
    loss_limit: float,
    gradient_limit: float,
) -> None:
    recorder.at_most(f"{name}: loss", result.loss_error(reference), loss_limit)
    recorder.at_most(f"{name}: gradient", result.gradient_error(reference), gradient_limit)


def _check_documents(
    recorder: Recorder, config: ModelConfig, weights: dict[str, Tensor], tokens_BT: Tensor
) -> None:
    """Packed documents: a mask in fp32, a kernel for sequences of different lengths in bf16."""
    cpu = torch.device("cpu")
    packed = ModelOptions(documents=True)
    expected = _ours(config, weights, tokens_BT, cpu, packed)
    plain = _ours(config, weights, tokens_BT, cpu)
    recorder.check("documents change the loss", abs(expected.loss_error(plain)) > 1e-6)
    result = _ours(config, weights, tokens_BT, recorder.device, packed)
    _record(recorder, "documents, fp32 mask", result, expected, FP32_LIMIT, FP32_LIMIT)
    for name, options in _variants(recorder, packed._replace(dtype=torch.bfloat16)).items():
        result = _ours(config, weights, tokens_BT, recorder.device, options)
        limits = (BF16_LOSS_LIMIT, BF16_GRADIENT_LIMIT)
        _record(recorder, f"documents, bf16, {name}", result, expected, *limits)


def _check_attention(recorder: Recorder) -> None:
    """Each attention kernel, forward and backward, against a plain softmax in fp64."""
    T = 48 if recorder.is_tiny else 512
    backends = ["as trained", "FLASH_ATTENTION", "MATH"]
    if recorder.device.type == "cuda":
        backends += ["CUDNN_ATTENTION", "EFFICIENT_ATTENTION"]
    for H in (64, 128):
        inputs = torch.randn(4, 2, T, 4, H, generator=torch.Generator().manual_seed(H))
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v, gradient = inputs.to(dtype)
            expected = _plain_attention(q, k, v, gradient)
            on_device = [x.to(recorder.device) for x in (q, k, v, gradient)]
            for backend in backends:
                name = f"attention {backend}, {str(dtype)[6:]}, heads of {H}"
                with recorder.item(name):
                    error = _attention_error(backend, on_device, expected)
                    if error is None:
                        recorder.text(name, "not available")
                    else:
                        recorder.at_most(name, error, ATTENTION_LIMITS[dtype])
    name = attention.kernel_name(recorder.device, torch.bfloat16)
    recorder.text("attention kernel in bf16", name)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and gradients by q, k and v, in fp64."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    logits_BNTS = torch.einsum("btnh,bsnh->bnts", q, k) * q.shape[-1] ** -0.5
    T = q.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool).tril()
    weights = logits_BNTS.masked_fill(~causal_TT, -torch.inf).softmax(-1)
    out = torch.einsum("bnts,bsnh->btnh", weights, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), gradient.double())]


def _attention_error(backend: str, inputs: list[Tensor], expected: list[Tensor]) -> float | None:
    """The largest relative error of output and gradients; None without this kernel."""
    q, k, v = (x.clone().requires_grad_() for x in inputs[:3])
    if backend == "as trained":
        out = attention.attend(q, k, v)
    else:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            try:
                heads_first = [x.transpose(1, 2) for x in (q, k, v)]
                out = F.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)  # pyright: ignore[reportArgumentType]
            except RuntimeError:
                return None
    found = [out.detach(), *torch.autograd.grad(out, (q, k, v), inputs[3])]
    return max(
        float((x.double().cpu() - y).norm() / y.norm())
        for x, y in zip(found, expected, strict=True)
    )
