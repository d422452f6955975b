"""load the model of a folder: our OLMo where it computes the same, else transformers"""

import torch

from data_prep.core.errors import ConfigurationError
from eval.model.subject.model_folder import ModelFolder
from eval.model.subject.olmo_subject import load_olmo
from eval.model.subject.subject_model import SubjectModel
from training.model import hf_export


def load(folder: ModelFolder, dtype: torch.dtype, device: torch.device) -> SubjectModel:
    """The model on a device, in evaluation mode."""
    if is_ours(folder):
        return load_olmo(folder.path, dtype).to(device)
    # transformers takes seconds to import
    from eval.model.subject.transformers_subject import load_with_transformers

    return load_with_transformers(folder, dtype).to(device)


def is_ours(folder: ModelFolder) -> bool:
    """Whether our OLMo computes this model: one without biases, grouped queries, clipping, or an
    output matrix of its own.
    """
    if folder.class_name != hf_export.ARCHITECTURE:
        return False
    try:
        hf_export.read_model_config(folder.path)
    except ConfigurationError:
        return False
    return True
