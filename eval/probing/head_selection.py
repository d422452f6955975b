"""which heads are steered: those with the most accurate probes on validation rows"""

import torch
from torch import Tensor


def select_heads(validation_accuracy_LN: Tensor, top_heads: int) -> list[tuple[int, int]]:
    """The `top_heads` heads (all, if there are fewer) as (layer, head), most accurate first; among
    equals the earlier head comes first.
    """
    accuracy = validation_accuracy_LN.flatten()
    order = torch.sort(accuracy, descending=True, stable=True).indices[:top_heads]
    return [divmod(int(i), validation_accuracy_LN.shape[1]) for i in order]
