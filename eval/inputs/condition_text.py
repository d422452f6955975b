"""the text that a condition puts before every prompt, and how long it may be"""

from data_prep.core.errors import ConfigurationError
from data_prep.token_stream.tokenizer import Tokenizer
from eval.config import ConditionConfig


def text_before_prompts(condition: ConditionConfig, control_text: str) -> str:
    """The control text of the model's arm, if the condition asks for it, and the prefix."""
    return (control_text if condition.control_text else "") + condition.prefix


def reserved_tokens(sequence_length: int) -> int:
    """Positions that prompts and held-out windows leave to the prefix of a condition, so that all
    conditions are measured on the same tokens.
    """
    return max(sequence_length // 8, min(64, sequence_length // 4))


def encode(text: str, tokenizer: Tokenizer, sequence_length: int, what: str) -> list[int]:
    """The ids of the text before every prompt, of the condition that `what` names.

    Raises ConfigurationError if they exceed reserved_tokens.
    """
    ids = tokenizer.encode_batch([text]).ids.tolist() if text else []
    if len(ids) > (limit := reserved_tokens(sequence_length)):
        raise ConfigurationError(
            f"{what}: the text before every prompt, {text!r}, has {len(ids)} tokens, and a model "
            f"with {sequence_length} positions leaves {limit} to it; shorten the prefix in "
            "eval.conditions (the control text of an arm: data.annotation.meda_template or "
            "inst_template), or leave the condition out"
        )
    return ids
