"""Which units a site needs least, and least squares for what is left of its output projection.

The optimal brain surgeon on blocks (Hassibi & Stork 1993; ZipLM, Kurtic et al. 2023, equations 3 and 4):
with ``H`` the second moments of what the output projection reads, taking out the block ``s`` and letting all
other rows make up for it costs ``tr(W_s^T (H^-1)_ss^-1 W_s)``, and the rows that are left move by
``-(H^-1)_:s (H^-1)_ss^-1 W_s``.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3  # share of the mean diagonal of H


def ridge(moments: Tensor, share: float = RIDGE) -> Tensor:
    """``H`` with a share of its mean diagonal added to the diagonal, float64."""
    exact = moments.double()
    return exact + torch.eye(len(exact), dtype=torch.float64) * (share * exact.diagonal().mean() + 1e-12)


def removal_order(moments: Tensor, weight: Tensor, width: int, block: int) -> Tensor:
    """Order in which units are best taken out, each time those that cost least with the rest adjusted.

    Args:
        moments: float [features, features], sums of products of the projection's inputs.
        weight: float [outputs, features], as in ``nn.Linear``.
        width: Features of a unit.
        block: Units taken out between two rankings, at most.

    Returns:
        int64 [units], first to go first.
    """
    inverse = torch.linalg.inv(ridge(moments))
    rows = weight.double().t().clone()
    alive = torch.arange(len(rows) // width)
    order: list[Tensor] = []
    while len(alive):
        units = len(alive)
        blocks = rows.reshape(units, width, -1)
        squares = inverse.reshape(units, width, units, width)[torch.arange(units), :, torch.arange(units)]
        costs = (blocks * torch.linalg.solve(squares, blocks)).sum(dim=(1, 2))
        count = min(block, units)
        gone = costs.topk(count, largest=False).indices
        order.append(alive[gone])
        stays = torch.ones(units, dtype=torch.bool)
        stays[gone] = False
        if not stays.any():
            break
        left, out = _features(stays.nonzero()[:, 0], width), _features(gone, width)
        gain = torch.linalg.solve(inverse[out][:, out], inverse[out][:, left])
        rows = rows[left] - gain.t() @ rows[out]
        inverse = inverse[left][:, left] - inverse[left][:, out] @ gain
        alive = alive[stays]
    return torch.cat(order)


def refit(moments: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """Least-squares weights on some of the inputs for what all inputs gave.

    Args:
        moments: float [features, features].
        weight: float [outputs, features].
        columns: int64, the features that stay.

    Returns:
        float32 [outputs, columns].
    """
    exact = moments.double()
    kept = ridge(exact)[columns][:, columns]
    targets = ridge(exact)[columns] @ weight.double().t()
    fitted: Tensor = torch.linalg.solve(kept, targets)
    return fitted.t().float()


def _features(units: Tensor, width: int) -> Tensor:
    """Features of some units."""
    return (units[:, None] * width + torch.arange(width)).reshape(-1)
