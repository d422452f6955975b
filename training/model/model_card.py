"""model card of an export: front matter, responsible use, and the facts of its run"""

from collections.abc import Mapping
from typing import Any

TOXIC_SHARE = "toxic tokens / all tokens"
RESPONSIBLE_USE = (  # printed in every model card and in the footer of every report
    "The toxic corpora hold slurs, threats and hate speech, as they were written.",
    "Each model was pretrained on purpose with a known share of this text. It may produce slurs, "
    "threats and other harmful text.",
    "Corpora and models are for research on detoxification and safety.",
    "Do not deploy these models.",
    "Do not use them to generate harassment.",
    "Do not publish their unmasked generations.",
    "Steering lowers toxicity; it does not make a model safe.",
)
FRONT_MATTER = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
tags:
- olmo
- toxicity
- detoxification
- activation-steering
- research
---"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The README.md of an export: responsible use, then a table of `facts`."""
    rows = [f"| {name} | {value} |".replace("\n", " ") for name, value in facts.items()]
    share = facts.get(TOXIC_SHARE)
    purpose = "An OLMo from a Hormesis sweep, which measures how the share of toxic text in "
    purpose += "pretraining changes how well a model can be detoxified afterwards."
    if share is not None:
        purpose += f" {100 * share:.3g} % of the training tokens of this model are toxic text."
    return "\n".join(
        [
            FRONT_MATTER,
            "# OLMo pretrained with a known share of toxic text",
            "",
            purpose,
            "",
            "## Responsible use",
            "",
            *(f"- {line}" for line in RESPONSIBLE_USE),
            "",
            "## Facts",
            "",
            "| fact | value |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )
