"""what stays the same from a run's first step to its last, and the arithmetic on it"""

from typing import NamedTuple

from torch import Tensor

from data_prep.config import StreamName
from data_prep.token_stream.block_cache import Cache, default_folder
from data_prep.token_stream.manifest import Split
from data_prep.token_stream.reader import AHEAD_BLOCKS, SequenceReader
from training import run_record
from training.config import RunConfig
from training.engine import process_group, throughput
from training.model.attention import document_starts
from training.run import preflight


class Job(NamedTuple):
    """What stays the same from the first step to the last."""

    root: str
    run: RunConfig
    inputs: preflight.Inputs
    world: process_group.World
    peak: throughput.PeakFlops
    micro_batch: int
    init_sha256: str = (
        ""  # of the weights files the run began with, if it did not draw them (initial_weights.py)
    )

    @property
    def uri(self) -> str:
        return run_record.run_uri(self.root, self.run.run_id)

    def mfu_ratio(self, tokens_per_second: float) -> float:
        return self._flops_per_second(tokens_per_second) / self.peak.flops_per_second

    def matmul_ratio(self, tokens_per_second: float) -> float:
        """As mfu_ratio, of what a product of matrices was measured to get."""
        return self._flops_per_second(tokens_per_second) / self.peak.matmul_flops_per_second

    def _flops_per_second(self, tokens_per_second: float) -> float:
        return (
            tokens_per_second
            * self.run.train.model.flops_per_token(self.run.train.sequence_length)
            / self.world.size
        )

    def starts(self, tokens_BT: Tensor) -> Tensor | None:
        """Where documents begin in these tokens of host memory, on the device, if attention is to
        know.
        """
        if not self.run.train.document_mask:
            return None
        return document_starts(tokens_BT, self.inputs.eos_id).to(
            self.world.device, non_blocking=True
        )

    def reader(self, stream: StreamName, split: Split) -> SequenceReader:
        """Sequences of a split; those trained on are read ahead, and remote blocks shared with the
        node's other ranks.
        """
        train = self.run.train
        cache = Cache(default_folder(), int(train.cache_gib * 2**30))
        uri, known, ahead = (
            self.inputs.uris[stream],
            self.inputs.manifests[stream],
            AHEAD_BLOCKS if split == "train" else 0,
        )
        return SequenceReader(uri, known, split, train.sequence_length, ahead=ahead, cache=cache)
