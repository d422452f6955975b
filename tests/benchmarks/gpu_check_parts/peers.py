"""OLMo-1B by ours and by peers, one after the other in one process on one device"""

import train_contenders

from gpu_check_parts import one_billion
from gpu_check_parts.recorder import Recorder

SECONDS = 20.0
N_STEPS = 3
PEERS = {
    "hf-deepspeed": "transformers under the same DeepSpeed settings",
    "hf-fsdp2": "transformers under FSDP2",
    "hf-ddp": "transformers under DDP",
    "torch": "our model and loss in plain PyTorch",
}


def run(recorder: Recorder) -> None:
    bench = one_billion.prepare(recorder, n_passes=2, n_steps=N_STEPS)
    builders = train_contenders.builders(bench.train)
    ours = one_billion.measure(recorder, bench, "ours", builders["ours"])
    for name, meaning in PEERS.items():
        one_billion.release()
        if not recorder.has_time(SECONDS, name):
            continue
        cost = one_billion.measure(recorder, bench, name, builders[name])
        if cost and ours:
            recorder.number(f"ours / {name}", cost.seconds / ours.seconds, "times", meaning)
