"""The vectorised training against one model at a time in plain torch, and its checkpoints."""

from dataclasses import replace

import pytest
import torch
import toy_plain_loop
from toy_settings import TINY

from data_prep.core import storage
from data_prep.core.errors import ArtefactCorrupt
from eval.toy import chains, estimators, measure_replicas
from eval.toy.config import ChainConfig, ToyConfig, ToyModelConfig, ToyTrainingConfig
from eval.toy.replicas import replica_ops, toy_model, train_replicas

# fp64: the keys' biases have no gradient but rounding, which AdamW in fp32 makes a full step
FP64 = 1e-9
WIDE = replace(
    TINY,
    chains=ChainConfig(n_states=5, n_chains=4, length_tokens=10, noise=0.2, n_variants=3),
    model=ToyModelConfig(d_model=6, n_layers=2, n_heads=3, d_mlp=5),
    training=ToyTrainingConfig(
        n_steps=12, warmup_steps=4, learning_rates=(1e-3, 1e-2), weight_decays=(0.0, 1.0)
    ),
)


def trained_in_fp64(config: ToyConfig) -> torch.Tensor:
    loop = train_replicas._Loop(config, train_replicas.draw_all(config))
    start = train_replicas.start(config)
    state = start._replace(
        parameters=start.parameters.double(),
        momentum=start.momentum.double(),
        square=start.square.double(),
    )
    # the fp32 values nearest to the settings are not those of fp64
    everyone = train_replicas.replicas(config)
    loop._rate_R = torch.tensor([one.learning_rate for one in everyone], dtype=torch.float64)
    loop._decay_R = torch.tensor([one.weight_decay for one in everyone], dtype=torch.float64)
    for _ in range(config.training.n_steps):
        state = loop.step(state)
    return state.parameters


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "wide"])
def test_replicas_train_as_single_models_on_explicit_rows(config: ToyConfig):
    found_PR = trained_in_fp64(config)
    start_PR = train_replicas.start(config).parameters.double()
    for place, replica in enumerate(train_replicas.replicas(config)):
        n_steps = config.training.n_steps
        plain = toy_plain_loop.train_plainly(config, replica, n_steps, torch.float64)
        expected_P = toy_plain_loop.flat_parameters(config, plain)
        moved = (expected_P - start_PR[:, place]).norm()
        assert (found_PR[:, place] - expected_P).norm() < FP64 * moved, replica


def test_residual_streams_and_losses_are_those_of_a_plain_model():
    flat_PR = train_replicas.start(WIDE).parameters[:, :3].double()
    streams = measure_replicas.read_streams(WIDE, flat_PR)
    losses = measure_replicas.sequence_losses(WIDE, flat_PR)
    read = estimators.rows(WIDE).position_T
    tokens = torch.from_numpy(chains.sequences(WIDE.chains).tokens_NT)
    for place in range(3):
        plain = toy_plain_loop.model_of(WIDE, flat_PR[:, place]).double()
        for found, expected in zip(streams, plain.streams(tokens), strict=True):
            rows = expected[:, torch.from_numpy(read)].flatten(0, 1).detach()
            torch.testing.assert_close(torch.from_numpy(found[place]), rows)
        by_position = torch.nn.functional.cross_entropy(
            plain(tokens)[:, :-1].permute(0, 2, 1), tokens[:, 1:], reduction="none"
        )
        mean = by_position[:, torch.from_numpy(read[:-1])].mean(1).detach()
        torch.testing.assert_close(torch.from_numpy(losses[:, place]), mean)


def test_operations_have_the_gradients_of_their_values():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    checks = [
        (replica_ops.ReplicaLinear, (normal(4, 6, 2), normal(4, 3, 2), normal(3, 2))),
        (replica_ops.ReplicaLinear, (normal(3, 6, 2), normal(3, 5, 2), normal(5, 2))),
        (replica_ops.ReplicaLayerNorm, (normal(4, 6, 2),)),
        (replica_ops.CausalAttention, tuple(normal(2, 3, 2, 4, 2) for _ in range(3))),
    ]
    for operation, inputs in checks:
        assert torch.autograd.gradcheck(operation.apply, inputs)  # type: ignore[arg-type]


def test_a_position_reads_nothing_behind_it():
    flat_PR = train_replicas.start(TINY).parameters
    tokens = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 3, 2, 1, 0]])
    logits = toy_model.forward(TINY, flat_PR, tokens).logits_VMR.unflatten(1, (2, 8))
    assert torch.equal(logits[:, 0, :4], logits[:, 1, :4])
    assert not torch.equal(logits[:, 0, 4], logits[:, 1, 4])


def test_replicas_of_a_seed_start_alike_and_seeds_differ():
    start_PR = train_replicas.start(TINY).parameters
    by_seed = start_PR.unflatten(1, (-1, TINY.n_seeds))
    assert torch.equal(by_seed, by_seed[:, :1].expand_as(by_seed))
    assert not torch.equal(by_seed[:, 0, 0], by_seed[:, 0, 1])


def test_a_stopped_training_continues_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(train_replicas, "STEPS_PER_CHECKPOINT", 5)
    drawn = train_replicas.draw_all(TINY)
    whole = train_replicas.train(TINY, drawn, str(tmp_path / "whole"))

    uri = str(tmp_path / "stopped")
    step = train_replicas._Loop.step

    def stop(loop, state):
        if state.step == 7:
            raise KeyboardInterrupt
        return step(loop, state)

    with monkeypatch.context() as patch:
        patch.setattr(train_replicas._Loop, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train_replicas.train(TINY, drawn, uri)
    assert train_replicas.load(TINY, uri).step == 5
    train_replicas.train(TINY, drawn, uri)
    assert storage.read(uri) == storage.read(str(tmp_path / "whole"))
    assert whole.step == 12


def test_a_damaged_checkpoint_is_refused_with_its_remedy(tmp_path):
    uri = str(tmp_path / "models.safetensors")
    storage.write(uri, b"no tensors")
    with pytest.raises(ArtefactCorrupt, match="delete it and run the command again"):
        train_replicas.load(TINY, uri)
    train_replicas.save(train_replicas.start(WIDE), uri)
    with pytest.raises(ArtefactCorrupt, match=r"expected .*delete it and run"):
        train_replicas.load(TINY, uri)


def test_the_learning_rate_rises_and_falls_to_a_tenth():
    config = ToyTrainingConfig(n_steps=14, warmup_steps=4)
    shares = [train_replicas.learning_rate_share(config, step) for step in range(14)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[-1] == pytest.approx(0.1)
    assert sorted(shares[3:], reverse=True) == shares[3:]
