"""The estimators of directions against scikit-learn and on planted features."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from toy_settings import TINY

from data_prep.core.errors import ConfigurationError
from eval.toy import entanglement, estimators, logistic, measure_replicas
from eval.toy.config import ChainConfig, ToyModelConfig
from eval.toy.estimators import ESTIMATORS, Features
from eval.toy.replicas import toy_model
from eval.toy.toy_result import ENTANGLEMENT, LENGTH, OTHER_CHAINS

READ = estimators.rows(TINY)
N_FEATURES = 12
CLOSE = 1e-4  # scikit-learn stops when its gradient is small, not at the minimum


def random_rows(seed: int = 0, n_batches: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_batches, len(READ.feature_K), 4))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def sklearn_normal(x: np.ndarray, is_own: np.ndarray, l2: float = 1.0) -> np.ndarray:
    probe = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(x, is_own)
    return probe.coef_[0]


def test_rows_are_the_second_half_with_every_token_once_per_sequence():
    assert READ.position_T.tolist() == [4, 5, 6, 7]
    assert sorted(zip(READ.feature_K.tolist(), READ.token_K.tolist(), strict=True)) == [
        (feature, token) for feature in range(N_FEATURES) for token in range(4)
    ]
    assert (READ.state_K == READ.feature_K // 4 * 4 + READ.token_K).all()


@pytest.mark.parametrize("l2", [1.0, 0.01])
def test_logistic_normals_are_those_of_scikit_learn(l2: float):
    x = random_rows()
    own_FK = np.arange(N_FEATURES)[:, None] == READ.feature_K
    found = logistic.normals(x, own_FK, l2)
    for batch in range(2):
        for feature in range(N_FEATURES):
            expected = sklearn_normal(x[batch], own_FK[feature], l2)
            np.testing.assert_allclose(found[batch, feature], expected, atol=CLOSE)


def test_separable_rows_with_a_small_penalty_still_converge():
    x = np.zeros((1, 6, 2))
    x[0, :3, 0] = 5.0
    x[0, :, 1] = [0.1, -0.2, 0.3, 0.2, -0.1, -0.3]
    own_FK = np.array([[True] * 3 + [False] * 3])
    found = logistic.normals(x, own_FK, 1e-4)[0, 0]
    np.testing.assert_allclose(found, sklearn_normal(x[0], own_FK[0], 1e-4), rtol=1e-3)


def test_probes_converge_where_whole_newton_steps_diverge():
    """Layer 2 of untrained models, token 0: without halving, the weights grow beyond 1e12."""
    of_token = READ.token_K == 0
    streams = measure_replicas.read_streams(TINY, toy_model.initial(TINY, range(3)))
    x = streams[2][:, of_token]
    own_FK = np.arange(N_FEATURES)[:, None] == READ.feature_K[of_token]
    found = logistic.normals(x, own_FK, 0.01)
    for batch in range(3):
        for feature in range(N_FEATURES):
            expected = sklearn_normal(x[batch], own_FK[feature], 0.01)
            np.testing.assert_allclose(found[batch, feature], expected, rtol=0.01, atol=0.01)


def test_probes_that_do_not_converge_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 2)
    own_FK = np.arange(N_FEATURES)[:, None] == READ.feature_K
    with pytest.raises(ConfigurationError, match=r"did not converge in 2 steps .* raise it"):
        logistic.normals(random_rows(), own_FK, 0.01)


def test_token_probes_are_means_of_unit_normals_per_last_token():
    x = random_rows()
    found = estimators.token_probes(x, READ, TINY).direction_BFD
    for feature in range(N_FEATURES):
        normals = []
        for token in range(4):
            of_token = READ.token_K == token
            is_own = READ.feature_K[of_token] == feature
            normals.append(unit(sklearn_normal(x[0][of_token], is_own)))
        np.testing.assert_allclose(found[0, feature], unit(np.mean(normals, 0)), atol=CLOSE)


def test_joint_probes_read_the_rows_of_all_tokens():
    x = random_rows()
    found = estimators.joint_probes(x, READ, TINY).direction_BFD
    for feature in range(N_FEATURES):
        expected = unit(sklearn_normal(x[1], READ.feature_K == feature))
        np.testing.assert_allclose(found[1, feature], expected, atol=CLOSE)


def test_lda_has_the_directions_of_scikit_learn():
    x = random_rows()
    found = estimators.lda(x, READ, TINY).direction_BFD
    for batch in range(2):
        model = LinearDiscriminantAnalysis(solver="lsqr").fit(x[batch], READ.feature_K)
        expected = unit(model.coef_ - model.coef_.mean(axis=0))
        np.testing.assert_allclose(found[batch], expected, atol=1e-9)


def test_planted_means_are_found_with_their_lengths():
    generator = np.random.default_rng(3)
    planted = generator.normal(size=(N_FEATURES, 4))
    planted -= planted.mean(axis=0)
    of_sequence = planted[READ.feature_K][None]
    found = estimators.sequence_means(of_sequence, READ, TINY)
    np.testing.assert_allclose(found.direction_BFD[0], unit(planted))
    spread = np.sqrt(np.square(planted).sum(axis=1).mean())
    np.testing.assert_allclose(found.length_BF[0], np.linalg.norm(planted, axis=1) / spread)

    of_state = planted[READ.state_K][None]
    found = estimators.state_means(of_state, READ, TINY)
    np.testing.assert_allclose(found.direction_BFD[0], unit(planted))
    of_chain = (planted.reshape(3, 4, 4) - planted.reshape(3, 4, 4).mean(axis=0)).reshape(12, 4)
    np.testing.assert_allclose(found.length_BF[0], np.linalg.norm(of_chain, axis=1) / spread)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scale_and_place_of_the_stream_change_no_angle_of_means(name: str):
    """The probes' penalty alone depends on the scale; no estimator on the place."""
    x = random_rows(5)
    scale = 1.0 if name.endswith("probes") else 3.0
    moved = scale * x + np.array([1.0, -2.0, 0.5, 4.0])
    found, again = (ESTIMATORS[name](rows, READ, TINY) for rows in (x, moved))
    np.testing.assert_allclose(found.direction_BFD, again.direction_BFD, atol=1e-6)
    np.testing.assert_allclose(found.length_BF, again.length_BF, atol=1e-6)


def test_layer_0_tells_no_sequence_apart():
    parameters = toy_model.initial(TINY, range(3))
    embedded = measure_replicas.read_streams(TINY, parameters)[0]
    for name in ("joint_probes", "lda", "sequence_means"):
        assert np.isnan(ESTIMATORS[name](embedded, READ, TINY).direction_BFD).all()
    for name in ("token_probes", "state_means"):  # the three chains share every direction
        found = measure_replicas.quantities(TINY, name, embedded)
        np.testing.assert_allclose(found[ENTANGLEMENT].under_sampled_R, 1.0)
        np.testing.assert_allclose(found[LENGTH].control_R, 0.0, atol=1e-9)


def test_a_difference_of_means_that_is_only_rounding_is_no_direction():
    planted = np.random.default_rng(6).normal(size=(N_FEATURES, 4))
    by_state = planted[READ.token_K][None]  # no sequence differs from another in its mean
    rounding = 1e-14 * np.random.default_rng(7).normal(size=by_state.shape)
    for name in ("joint_probes", "lda", "sequence_means"):
        found = ESTIMATORS[name](by_state + rounding, READ, TINY)
        assert np.isnan(found.direction_BFD).all()


def test_noise_and_other_sizes_are_measured_by_every_estimator():
    config = replace(
        TINY,
        chains=ChainConfig(n_states=5, n_chains=4, length_tokens=10, noise=0.3, n_variants=4),
        model=ToyModelConfig(d_model=6, n_heads=3),
    )
    streams = measure_replicas.read_streams(config, toy_model.initial(config, range(3)))
    for name in ESTIMATORS:
        found = measure_replicas.quantities(config, name, streams[-1])
        for groups in found.values():
            assert np.isfinite(groups.under_sampled_R).all()
            assert np.isfinite(groups.control_R).all()


def test_entanglement_is_the_largest_cosine_by_a_loop():
    direction = unit(random_rows(7)[:, :N_FEATURES])
    found = entanglement.entanglement(direction)
    others = entanglement.with_other_chains(direction, 4)
    for batch in range(2):
        for i in range(N_FEATURES):
            cosines = [abs(float(direction[batch, i] @ v)) for v in direction[batch]]
            assert found[batch, i] == pytest.approx(max(cosines[:i] + cosines[i + 1 :]))
            rest = [cosine for j, cosine in enumerate(cosines) if j // 4 != i // 4]
            assert others[batch, i] == pytest.approx(max(rest))


def test_one_undefined_direction_leaves_its_model_without_a_value():
    direction = unit(random_rows(8)[:, :N_FEATURES])
    direction[1, 3] = np.nan
    found = entanglement.entanglement(direction)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_welchs_bound_is_met_by_an_equiangular_frame():
    angles = np.pi * np.arange(3) / 3  # three lines in the plane at 60 degrees
    frame = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = entanglement.entanglement(frame[None])
    np.testing.assert_allclose(found, entanglement.welch_bound(3, 2))
    assert entanglement.welch_bound(12, 4) == pytest.approx(0.426, abs=5e-4)
    assert entanglement.welch_bound(4, 4) == 0.0


def test_random_directions_are_at_the_level_of_a_simulation():
    level = entanglement.random_level(TINY)
    draws = unit(np.random.default_rng(11).normal(size=(20_000, N_FEATURES, 4)))
    cosine = np.abs(draws @ draws.transpose(0, 2, 1))
    cosine[:, np.arange(12), np.arange(12)] = 0
    expected = cosine.max(axis=2).mean()
    assert level.low is not None and level.high is not None
    assert level.low - 0.001 < expected < level.high + 0.001
    assert level.value == pytest.approx(0.843, abs=0.002)


def test_groups_are_the_first_chain_and_the_others():
    direction = unit(random_rows(9)[:, :N_FEATURES])
    lengths = np.arange(24.0).reshape(2, 12)
    features = Features(direction, lengths)
    found = {"planted": lambda *_: features}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ESTIMATORS, "planted", found["planted"])
        groups = measure_replicas.quantities(TINY, "planted", direction)
    assert groups[LENGTH].under_sampled_R.tolist() == [1.5, 13.5]
    assert groups[LENGTH].control_R.tolist() == [7.5, 19.5]
    assert set(groups) == {ENTANGLEMENT, OTHER_CHAINS, LENGTH}
