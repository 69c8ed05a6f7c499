"""RMSProp, the optimiser of the Inception papers, as TensorFlow defines it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch


class TensorFlowRMSprop(torch.optim.Optimizer):
    """RMSProp like `tf.train.RMSPropOptimizer`.

    It differs from `torch.optim.RMSprop` in three ways, which all matter with the papers' epsilon
    of 1.0. The mean square starts at one. Epsilon is under the root. The learning rate is applied
    before the momentum, so that a lower rate does not shrink the earlier steps in the momentum:

        square = decay * square + (1 - decay) * gradient^2
        step = momentum * step + lr * gradient / sqrt(square + eps)
        parameter = parameter - step

    There is no `weight_decay`: add L2 regularisation to the loss, as TensorFlow's code does.
    Gradient clipping, which is left to the caller, then includes the gradient of that term.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        decay: share of the mean square that a step keeps.
        momentum: share of the last step that a step keeps.
        eps: number that is added to the mean square under the root.

    Raises:
        ValueError: if `lr` or `eps` is negative; if `decay` or `momentum` is not in [0, 1).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.045,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
    ):
        for name, value in (("lr", lr), ("eps", eps)):
            if value < 0:
                raise ValueError(f"{name} must not be negative: {value}")
        for name, value in (("decay", decay), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1): {value}")
        super().__init__(params, dict(lr=lr, decay=decay, momentum=momentum, eps=eps))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates all parameters that have a gradient.

        Args:
            closure: function that recomputes the gradients and returns the loss. It is called
                before the update.

        Returns:
            The loss that `closure` returns; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["square"] = torch.ones_like(parameter)
            state["step"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        square, step = state["square"], state["step"]
        square.lerp_(gradient.square(), 1 - group["decay"])
        root = square.add(group["eps"]).sqrt_()
        step.mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
        parameter.sub_(step)
