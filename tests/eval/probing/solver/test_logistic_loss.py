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


def loss_at(level):
    x_RPH, labels_R = rows_and_labels()
    loss = LogisticLoss(x_RPH, ProblemRows(x_RPH, labels_R, N_PROBLEMS), L2)
    loss.read(level)
    return loss


def plain_loss(u_PF, loss, own_R):
    """The loss as the module's docstring writes it, of a share of the rows."""
    x_RPH, labels_R = (rows[own_R] for rows in rows_and_labels())
    x_RPH = x_RPH.double() - loss.centre_PH
    score_RP = torch.einsum("rph,ph->rp", x_RPH, u_PF[:, :-1]) + u_PF[:, -1]
    scale_PH = torch.from_numpy(loss.scale_PF[:, :-1])
    share = len(labels_R) / N_ROWS
    penalty_P = L2 * share / 2 * (scale_PH * u_PF[:, :-1]).square().sum(1)
    return softplus(-(2 * labels_R[:, None] - 1) * score_RP).sum(0) + penalty_P


@pytest.mark.parametrize(
    ("level", "tolerance"), [("quarter", 1e-4), ("float32", 1e-4), ("float64", 1e-5)]
)
def test_gradient_and_hessian_are_those_of_the_loss(level, tolerance):
    loss = loss_at(level)
    labels_R = rows_and_labels()[1]
    own_R = torch.arange(N_ROWS)
    if level == "quarter":
        own_R = torch.cat([(labels_R == label).nonzero()[::4, 0] for label in (1, 0)])
    assert loss.n_rows == len(own_R)
    u_PF = torch.randn(N_PROBLEMS, SIZE + 1, generator=torch.Generator().manual_seed(1)).double()
    u_PF[:, :-1] /= torch.from_numpy(loss.scale_PF[:, :-1])
    u_PF.requires_grad_()
    (expected_PF,) = torch.autograd.grad(
        plain_loss(u_PF, loss, own_R).sum(), u_PF, create_graph=True
    )
    unit_PF = loss.scale_PF * loss.n_rows
    gradient_PF = loss.gradient(u_PF.detach().numpy())
    assert np.abs((gradient_PF - expected_PF.detach().numpy()) / unit_PF).max() < tolerance / 100
    hessian_KFF = loss.hessian(np.array([2, 0]))
    for hessian_FF, p in zip(hessian_KFF, (2, 0), strict=True):
        rows_F = [
            torch.autograd.grad(expected_PF[p, f], u_PF, retain_graph=True)[0][p]
            for f in range(SIZE + 1)
        ]
        unit_FF = np.outer(loss.scale_PF[p], loss.scale_PF[p]) * loss.n_rows
        assert np.abs((hessian_FF - torch.stack(rows_F).numpy()) / unit_FF).max() < tolerance


def test_moments_are_those_of_the_features():
    loss = loss_at("float32")
    x_RPH = rows_and_labels()[0].double()
    assert ((loss.mean_PH - x_RPH.mean(0)).abs() <= 1e-6 * loss.scale_PH).all()
    assert torch.allclose(loss.scale_PH, x_RPH.std(0, correction=0), rtol=1e-6)


@pytest.mark.parametrize("level", ["quarter", "float32", "float64"])
def test_products_of_a_gpu_are_those_of_a_cpu(level, monkeypatch):
    u_PF = np.linspace(-0.1, 0.1, N_PROBLEMS * (SIZE + 1)).reshape(N_PROBLEMS, -1)

    def derivatives():
        loss = loss_at(level)
        return loss.gradient(u_PF), loss.hessian(np.arange(N_PROBLEMS))

    of_cpu = derivatives()
    monkeypatch.setattr(logistic_loss, "_is_on_gpu", lambda tensor: True)
    for own, other in zip(of_cpu, derivatives(), strict=True):
        assert np.allclose(own, other, rtol=1e-4, atol=1e-4 * N_ROWS)


@pytest.mark.parametrize("order", ["by label", "alternating", "random"])
def test_a_quarter_of_the_rows_has_both_classes(order):
    x_RPH, labels_R = rows_and_labels()
    labels_R = {
        "by label": labels_R.sort().values,
        "alternating": torch.arange(N_ROWS) % 2,
        "random": labels_R,
    }[order]
    quarter_Q = ProblemRows(x_RPH, labels_R, N_PROBLEMS).quarter_Q
    assert abs(len(quarter_Q) - N_ROWS / 4) <= 1
    assert abs(int(labels_R[quarter_Q].sum()) - int(labels_R.sum()) / 4) < 1
