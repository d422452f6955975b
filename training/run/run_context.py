"""RunContext: a run, its inputs and its ranks, constant while it trains"""

from typing import NamedTuple

from torch import Tensor

from data_prep.config import StreamName
from data_prep.token_stream.block_cache import BlockCache, default_folder
from data_prep.token_stream.manifest import Split
from data_prep.token_stream.reader import AHEAD_BLOCKS, SequenceReader
from training import run_record
from training.config import RunConfig
from training.engine import process_group, throughput
from training.model.attention import document_starts
from training.run import preflight


class RunContext(NamedTuple):
    """A run, its inputs and its ranks; constant while it trains.

    micro_batch: sequences per forward pass and rank. init_sha256: checksum of the weights files the
    run started from, empty if the weights were drawn from the seed (initial_weights.py).
    """

    root: str
    run: RunConfig
    inputs: preflight.RunInputs
    world: process_group.World
    peak: throughput.PeakFlops
    micro_batch: int
    init_sha256: str = ""

    @property
    def uri(self) -> str:
        return run_record.run_uri(self.root, self.run.run_id)

    def mfu_ratio(self, tokens_per_second: float) -> float:
        """Model FLOPs utilization: the share of the device's peak that training reaches."""
        return self._flops_per_second(tokens_per_second) / self.peak.flops_per_second

    def matmul_ratio(self, tokens_per_second: float) -> float:
        """As mfu_ratio, but of the FLOP/s that a large matmul was measured to reach there."""
        return self._flops_per_second(tokens_per_second) / self.peak.matmul_flops_per_second

    def _flops_per_second(self, tokens_per_second: float) -> float:
        """Model FLOP/s of one rank."""
        train = self.run.train
        flops_per_token = train.model.flops_per_token(train.sequence_length)
        return tokens_per_second * flops_per_token / self.world.size

    def document_starts(self, tokens_BT: Tensor) -> Tensor | None:
        """Where documents begin in these tokens of host memory, copied to the device.

        None without train.document_mask.
        """
        if not self.run.train.document_mask:
            return None
        starts = document_starts(tokens_BT, self.inputs.eos_id)
        return starts.to(self.world.device, non_blocking=True)

    def reader(self, stream: StreamName, split: Split) -> SequenceReader:
        """The sequences of a split; remote blocks are cached for all ranks of the node.

        Training text is read ahead, held-out text is not.
        """
        train = self.run.train
        cache = BlockCache(default_folder(), int(train.cache_gib * 2**30))
        return SequenceReader(
            self.inputs.uris[stream],
            self.inputs.manifests[stream],
            split,
            train.sequence_length,
            ahead=AHEAD_BLOCKS if split == "train" else 0,
            cache=cache,
        )
