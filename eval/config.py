"""what is asked: probe data, prompts, scorer, strengths"""

from typing import Literal

from data_prep.records import ConfigurationError, operational, record


@record
class EvalConfig:
    """How a finished run is probed, steered and scored.

    probes, prompts: document URIs with `#text=field&label=field`, or "held_out": short pieces of the held-out documents of both
        streams, labelled by the stream they come from.
    scorer: id of a toxicity scorer: "profanity" (offline lexical proxy) or "lexicon:URI" (a table of words with weights).
    strengths: α of the shift α·σ·θ; 0 is no steering and is always evaluated.
    top_heads: how many heads, by validation accuracy, are steered.
    cross_entropy_sequences: held-out sequences of each stream on which the cost of steering is measured.
    """

    probes: str
    prompts: str
    scorer: str
    n_probes: int = 1000
    n_prompts: int = 200
    strengths: tuple[float, ...] = (0.0, 4.0, 8.0, 12.0)
    top_heads: int = 30
    max_new_tokens: int = 20
    decoding: Literal["greedy", "nucleus"] = "nucleus"
    top_p: float = 0.9
    samples_per_prompt: int = 1
    probe_l2: float = 1.0
    cross_entropy_sequences: int = 64
    confidence: float = 0.95
    n_resamples: int = 2000
    seed: int = 0
    batch_size: int = operational(128)

    def __post_init__(self) -> None:
        if 0.0 not in self.strengths:
            raise ConfigurationError(f"eval.strengths {list(self.strengths)} lacks 0, the unsteered baseline; add it")
        if self.n_probes < 20 or self.n_prompts < 1:
            raise ConfigurationError(f"eval: n_probes {self.n_probes}, n_prompts {self.n_prompts}; expected at least 20 and 1")
