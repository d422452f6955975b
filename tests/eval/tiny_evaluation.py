"""settings of a small evaluation of the tiny finished run"""

from eval.config import (
    KNOWN_CONDITIONS,
    CapabilityConfig,
    EvalConfig,
    GenerationConfig,
    ProbingConfig,
    ScoringConfig,
    SteeringConfig,
)

CONFIG = EvalConfig(
    probes={"pairs": "synthetic:probes?documents=120"},
    conditions={
        name: KNOWN_CONDITIONS[name] for name in ("plain", "iti", "random_heads", "flipped")
    },
    probing=ProbingConfig(
        group_field="pair",
        n_rows=100,
        n_permutations=50,
        transfer=("synthetic:probes?documents=150#label=label>0.5",),
        attributes=(
            "synthetic:clean?documents=60#label=gloomy",
            "synthetic:clean?documents=60#label=casual",
        ),
    ),
    generation=GenerationConfig(n_prompts=12, max_new_tokens=6, samples_per_prompt=2),
    scoring=ScoringConfig(scorer="profanity"),
    steering=SteeringConfig(strengths=(2.0, 8.0), top_heads=3),
    capability=CapabilityConfig(cross_entropy_sequences=8),
)
STEERING_ALONE = {
    "conditions": {name: KNOWN_CONDITIONS[name] for name in ("plain", "iti")},
    "probing.attributes": (),
    "probing.n_permutations": 0,
}
