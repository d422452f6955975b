"""small settings of the toy experiment for tests"""

from eval.toy.config import ToyConfig, ToyTrainingConfig

TINY = ToyConfig(
    training=ToyTrainingConfig(n_steps=12, warmup_steps=4, batch_size=32),
    ratios=(0.1, 1.0),
    n_seeds=3,
)
