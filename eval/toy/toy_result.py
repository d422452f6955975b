"""ToyResult: the table of the toy experiment; its existence means the experiment is done"""

from typing import Annotated

from data_prep.core import storage
from data_prep.core.records import digest, format_version, record
from eval.stats.estimate_with_interval import Estimate
from eval.toy.config import ToyConfig

FORMAT_VERSION = 1
ENTANGLEMENT = "entanglement"
OTHER_CHAINS = "entanglement with other chains"
LENGTH = "length"
QUANTITIES = (ENTANGLEMENT, OTHER_CHAINS, LENGTH)


@record
class PairedContrast:
    """A difference paired by seed, with its t interval.

    p: of the paired t-test; None where both sides are equal by construction. p_holm: after Holm's
    correction over all tests of the result.
    """

    difference: Estimate
    p: float | None
    p_holm: float | None


@record
class ToyLevel:
    """One quantity at one ratio: the mean over the features of a group, then over seeds."""

    ratio: float
    under_sampled: Estimate
    control: Estimate


@record
class ToyQuantity:
    """One quantity of a cell.

    minus_control: under-sampled minus control features at the lowest ratio. drop: under-sampled
    features at the lowest ratio minus those at the highest. untrained: mean of all features before
    the first step.
    """

    levels: tuple[ToyLevel, ...]
    minus_control: PairedContrast
    drop: PairedContrast
    untrained: float | None


@record
class ToyCell:
    """What one estimator finds at one layer, 0 being the embedding; by name of QUANTITIES."""

    learning_rate: float
    weight_decay: float
    estimator: str
    layer: int
    quantities: dict[str, ToyQuantity]


@record
class ToyLoss:
    """Loss in nats per token on the positions that are read.

    n_drawn: under-sampled sequences that a replica drew in training, mean over seeds.
    """

    learning_rate: float
    weight_decay: float
    ratio: float
    n_drawn: float
    under_sampled: Estimate
    control: Estimate


@record
class ToyResult:
    """All cells: estimators × layers, for each learning rate and weight decay."""

    config: ToyConfig
    n_replicas: int
    welch_bound: float
    random_level: Estimate
    losses: tuple[ToyLoss, ...]
    cells: tuple[ToyCell, ...]
    n_tests: int
    format_version: Annotated[int, format_version(FORMAT_VERSION)]


def result_uri(root: str, config: ToyConfig) -> str:
    """Where the result of these settings is below an object root."""
    return storage.join(root, "toy", digest(config), "result.json")


def models_uri(root: str, config: ToyConfig) -> str:
    """Where the models are: trained ones, or a checkpoint of them. They do not depend on how
    directions are estimated.
    """
    trained = digest(config.chains, config.model, config.training, config.ratios, config.n_seeds)
    return storage.join(root, "toy", "models", f"{trained}.safetensors")


def read_all(root: str) -> list[tuple[str, ToyResult]]:
    """Every result below an object root, with the digest of its settings, in its order."""
    uris = storage.list_files(storage.join(root, "toy"), "*/result.json")
    return [(uri.split("/")[-2], storage.load(ToyResult, uri)) for uri in sorted(uris)]
