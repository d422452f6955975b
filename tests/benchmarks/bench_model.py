"""a training step of our OLMo against transformers' OlmoForCausalLM

Both have the same weights, the same tokens, one CPU thread and bf16.
"""

import os
import time
from collections.abc import Callable
from statistics import median

os.environ.update(HF_HUB_OFFLINE="1")

import torch
from transformers import OlmoConfig, OlmoForCausalLM

from launch.recipes import registry
from training.model.hf_export import hugging_face_config, to_hugging_face
from training.model.loss import OLMoForTraining

N_STEPS = 12
N_WARM_UP_STEPS = 2


def main() -> None:
    torch.set_num_threads(1)
    train = registry.named("laptop").train
    rows = train.global_batch // 2
    length = train.sequence_length
    tokens_BT = torch.randint(
        0, train.model.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)
    )

    ours = OLMoForTraining(train.model)
    ours.initialise(0)
    peer = OlmoForCausalLM(OlmoConfig(**hugging_face_config(train.model, 0, "bfloat16")))
    peer.load_state_dict(to_hugging_face(ours.state_dict()), strict=False)
    ours.bfloat16()
    peer.bfloat16()

    def our_loss() -> torch.Tensor:
        return ours(tokens_BT, torch.full((rows,), 1 / (rows * (length - 1)))).total

    def peer_loss() -> torch.Tensor:
        return peer(tokens_BT, labels=tokens_BT, use_cache=False).loss

    assert torch.allclose(our_loss(), peer_loss(), rtol=1e-2), (our_loss(), peer_loss())
    our_seconds, peer_seconds = _alternate([(ours, our_loss), (peer, peer_loss)])
    n_tokens = rows * length
    print(
        f"forward and backward, {train.model.n_parameters:,} parameters, {rows} × {length} tokens, "
        "bf16, one CPU thread"
    )
    print(f"  ours           {n_tokens / our_seconds:8,.0f} tokens/s")
    print(f"  transformers   {n_tokens / peer_seconds:8,.0f} tokens/s")
    print(f"  ratio          {peer_seconds / our_seconds:8.2f}")


def _alternate(contenders: list[tuple[torch.nn.Module, Callable[[], torch.Tensor]]]) -> list[float]:
    """Median seconds per step of each contender; they alternate, so that other load hits both."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for step in range(N_WARM_UP_STEPS + N_STEPS):
        for (model, loss), own_seconds in zip(contenders, seconds, strict=True):
            model.zero_grad()
            start = time.perf_counter()
            loss().backward()
            if step >= N_WARM_UP_STEPS:
                own_seconds.append(time.perf_counter() - start)
    return [median(own_seconds) for own_seconds in seconds]


if __name__ == "__main__":
    main()
