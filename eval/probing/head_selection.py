"""which heads are steered: those with the most accurate probes on validation rows"""

import torch
from torch import Tensor

from data_prep.core.errors import ConfigurationError
from eval.config import Site
from eval.model.subject.subject_model import ModelShape


def check_enough_heads(site: Site, shape: ModelShape, top_heads: int) -> None:
    """Raise ConfigurationError if the model has fewer heads than `top_heads`. At the other sites,
    with one unit in a layer, all are steered then.
    """
    n_heads = shape.n_layers * shape.n_heads
    if site == "heads" and top_heads > n_heads:
        raise ConfigurationError(
            f"eval.steering.top_heads is {top_heads}, and the model has {n_heads} heads "
            f"({shape.n_layers} layers of {shape.n_heads}); lower it"
        )


def select_heads(validation_accuracy_LN: Tensor, top_heads: int) -> list[tuple[int, int]]:
    """The `top_heads` heads (all, if there are fewer) as (layer, head), most accurate first; among
    equals the earlier head comes first.
    """
    accuracy = validation_accuracy_LN.flatten()
    order = torch.sort(accuracy, descending=True, stable=True).indices[:top_heads]
    return [divmod(int(i), validation_accuracy_LN.shape[1]) for i in order]
