import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from eval.probing.solver import logistic_loss
from eval.probing.solver.logistic_loss import LogisticLoss, ProblemRows

N_ROWS, N_PROBLEMS, SIZE, L2 = 120, 3, 4, 0.7


def rows_and_labels():
    generator = torch.Generator().manual_seed(0)
    labels_R = torch.randint(0, 2, (N_ROWS,), generator=generator)
    x_RPH = torch.randn(N_ROWS, N_PROBLEMS, SIZE, generator=generator)
    return x_RPH * torch.tensor([0.1, 1.0, 10.0, 100.0]) + 3, labels_R


def new_loss():
    x_RPH, labels_R = rows_and_labels()
    return LogisticLoss(x_RPH, ProblemRows(x_RPH, labels_R, N_PROBLEMS), L2)


def plain_loss(u_PF, loss):
    """The loss as the module's docstring writes it."""
    x_RPH, labels_R = rows_and_labels()
    x_RPH = x_RPH.double() - loss.centre_PH
    score_RP = torch.einsum("rph,ph->rp", x_RPH, u_PF[:, :-1]) + u_PF[:, -1]
    scale_PH = torch.from_numpy(loss.scale_PF[:, :-1])
    penalty_P = L2 / 2 * (scale_PH * u_PF[:, :-1]).square().sum(1)
    return softplus(-(2 * labels_R[:, None] - 1) * score_RP).sum(0) + penalty_P


@pytest.mark.parametrize(("level", "tolerance"), [("float32", 1e-6), ("float64", 1e-7)])
def test_gradient_and_hessian_are_those_of_the_loss(level, tolerance, monkeypatch):
    monkeypatch.setattr(logistic_loss, "SAMPLED_ROWS_PER_PARAMETER", N_ROWS)  # all rows
    loss = new_loss()
    u_PF = torch.randn(N_PROBLEMS, SIZE + 1, generator=torch.Generator().manual_seed(1)).double()
    u_PF[:, :-1] /= torch.from_numpy(loss.scale_PF[:, :-1])
    u_PF.requires_grad_()
    (expected_PF,) = torch.autograd.grad(plain_loss(u_PF, loss).sum(), u_PF, create_graph=True)
    unit_PF = loss.scale_PF * N_ROWS
    gradient_PF = loss.gradient(u_PF.detach().numpy(), level)
    assert np.abs((gradient_PF - expected_PF.detach().numpy()) / unit_PF).max() < tolerance
    hessian_KFF = loss.hessian(np.array([2, 0]))
    for hessian_FF, p in zip(hessian_KFF, (2, 0), strict=True):
        rows_F = [
            torch.autograd.grad(expected_PF[p, f], u_PF, retain_graph=True)[0][p]
            for f in range(SIZE + 1)
        ]
        unit_FF = np.outer(loss.scale_PF[p], loss.scale_PF[p]) * N_ROWS
        assert np.abs((hessian_FF - torch.stack(rows_F).numpy()) / unit_FF).max() < 1e-5


@pytest.mark.parametrize("order", ["by label", "alternating", "random"])
def test_sampled_rows_weigh_as_much_as_all_in_each_class(order):
    generator = torch.Generator().manual_seed(0)
    labels_R = torch.randint(0, 2, (2000,), generator=generator)
    labels_R = {
        "by label": labels_R.sort().values,
        "alternating": torch.arange(2000) % 2,
        "random": labels_R,
    }[order]
    x_RPH = torch.randn(2000, 1, SIZE, generator=generator)
    loss = LogisticLoss(x_RPH, ProblemRows(x_RPH, labels_R, 1), L2)
    weight_R = (torch.rand(2000, generator=generator) ** 8).numpy()  # most of them near 0
    rows_S, weight_S = loss._sample(weight_R)
    n_expected = logistic_loss.SAMPLED_ROWS_PER_PARAMETER * (SIZE + 1)
    assert abs(len(rows_S) - n_expected) <= 0.2 * n_expected
    assert len(set(rows_S)) == len(rows_S) and (weight_S >= weight_R[rows_S]).all()
    for label in (0, 1):
        total = weight_R[labels_R == label].sum()
        assert abs(weight_S[labels_R[rows_S] == label].sum() - total) <= 0.05 * total


def test_rows_that_are_all_certain_leave_the_penalty_as_hessian():
    labels_R = torch.arange(2000) % 2
    x_RPH = (labels_R[:, None, None] * 2.0 - 1).expand(-1, 1, 1)
    loss = LogisticLoss(x_RPH, ProblemRows(x_RPH, labels_R, 1), L2)
    loss.gradient(np.array([[1e4, 0.0]]), "float32")
    with np.errstate(all="raise"):
        (hessian_FF,) = loss.hessian(np.array([0]))
    assert np.allclose(hessian_FF, np.diag([L2, logistic_loss.FLAT]), atol=1e-9)


def test_moments_are_those_of_the_features():
    loss = new_loss()
    x_RPH = rows_and_labels()[0].double()
    assert ((loss.mean_PH - x_RPH.mean(0)).abs() <= 1e-6 * loss.scale_PH).all()
    assert torch.allclose(loss.scale_PH, x_RPH.std(0, correction=0), rtol=1e-6)


@pytest.mark.parametrize("level", ["float32", "float64"])
def test_products_of_a_gpu_are_those_of_a_cpu(level, monkeypatch):
    u_PF = np.linspace(-0.1, 0.1, N_PROBLEMS * (SIZE + 1)).reshape(N_PROBLEMS, -1)

    def derivatives():
        loss = new_loss()
        return loss.gradient(u_PF, level), loss.hessian(np.arange(N_PROBLEMS))

    of_cpu = derivatives()
    monkeypatch.setattr(logistic_loss, "_is_on_gpu", lambda values: True)
    for own, other in zip(of_cpu, derivatives(), strict=True):
        assert np.allclose(own, other, rtol=1e-4, atol=1e-4 * N_ROWS)
