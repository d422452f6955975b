"""every metric: its kind, unit, meaning and labels

Ray appends `_total` to the name of a counter. Each value of a label is a time series in Prometheus,
so no label has unbounded values.
"""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A metric by the name in METRICS; the name ends with the unit where it is _seconds, _bytes or
    _ratio.
    """

    kind: Literal["gauge", "counter"]
    unit: str
    help: str
    labels: tuple[str, ...]


def _gauge(unit: str, help: str, *more_labels: str) -> Metric:  # noqa: A002
    """A value of one training run."""
    return Metric("gauge", unit, help, ("run", *more_labels))


def _counter(unit: str, help: str, *labels: str) -> Metric:  # noqa: A002
    return Metric("counter", unit, help, labels)


METRICS: dict[str, Metric] = {
    # data preparation
    "hormesis_documents": _counter("documents", "documents read", "stream"),
    "hormesis_documents_dropped": _counter(
        "documents", "documents dropped by cleaning", "stream", "reason"
    ),
    "hormesis_tokens_written": _counter("tokens", "tokens written to shards", "stream"),
    # storage
    "hormesis_storage_read_bytes": _counter("bytes", "bytes read from object storage"),
    "hormesis_storage_retries": _counter(
        "requests", "retries of object storage requests", "reason"
    ),
    "hormesis_cache_hits": _counter("blocks", "blocks of tokens found in the node's cache"),
    # training: progress and loss
    "hormesis_train_step": _gauge("steps", "optimizer steps done"),
    "hormesis_train_steps_planned": _gauge("steps", "optimizer steps the run will take"),
    "hormesis_train_loss": _gauge("nats/token", "training loss of the last logged step"),
    "hormesis_train_source_loss": _gauge(
        "nats/token", "training loss on the sequences of one stream since the last log", "stream"
    ),
    "hormesis_held_out_loss": _gauge("nats/token", "loss on held-out text", "stream"),
    "hormesis_probe_auroc": _gauge(
        "1", "AUROC of the best head's probe on held-out toxic and clean text"
    ),
    "hormesis_batch_toxic_share_ratio": _gauge(
        "ratio", "toxic sequences / all sequences of the batches since the last log"
    ),
    "hormesis_toxic_share_ratio": _gauge(
        "ratio", "toxic sequences / all sequences of the batches so far"
    ),
    # training: health of the model
    "hormesis_learning_rate": _gauge("1", "learning rate of the last step"),
    "hormesis_grad_norm": _gauge("1", "global gradient norm before clipping"),
    "hormesis_block_grad_norm": _gauge("1", "gradient norm of one block before clipping", "block"),
    "hormesis_residual_rms": _gauge(
        "1", "root mean square of the residual stream after a layer", "layer"
    ),
    "hormesis_attention_logit_max": _gauge(
        "1", "largest attention logit of a layer, on the first sequence of a logged step", "layer"
    ),
    "hormesis_skipped_steps": _gauge(
        "steps", "steps skipped: not finite, loss spikes, or batches skipped by a rollback"
    ),
    "hormesis_rollbacks": _gauge(
        "times", "times training rolled back to a checkpoint and skipped batches"
    ),
    # training: speed and memory
    "hormesis_tokens_per_second": _gauge("tokens/s", "training tokens per second, all ranks"),
    "hormesis_mfu_ratio": _gauge("ratio", "model FLOPs utilisation of the device's peak"),
    "hormesis_matmul_ratio": _gauge("ratio", "model FLOPs per second / those of a measured matmul"),
    "hormesis_data_wait_seconds": _gauge(
        "s", "mean time per step that training waited for data, since the last log"
    ),
    "hormesis_memory_bytes": _gauge("bytes", "memory of rank 0, on its device or host", "kind"),
    # training: checkpoints
    "hormesis_checkpoint_seconds": _gauge("s", "time to publish the last checkpoint"),
    "hormesis_checkpoint_stall_seconds": _gauge(
        "s", "time that training was stopped for the last checkpoint"
    ),
    "hormesis_checkpoint_bytes": _gauge(
        "bytes", "size of the last published checkpoint, all ranks"
    ),
    "hormesis_checkpoints_failed": _counter(
        "checkpoints", "checkpoints that could not be published", "run"
    ),
    "hormesis_checkpoints_skipped": _counter(
        "checkpoints", "checkpoints skipped while the previous one was being published", "run"
    ),
    # evaluation
    "hormesis_evaluations": _counter("runs", "runs evaluated", "run"),
}
