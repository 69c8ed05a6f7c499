"""Original implementations in PyTorch, with random weights.

They are those of timm, torchvision, Cadene's pretrainedmodels, facenet-pytorch and pytorch-fid.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.helpers.peers.runtime import DTYPES, Size, hostile, library
from tests.helpers.twins import to_nchw


class InPyTorch:
    """An original implementation in PyTorch with random weights, with the interface `Theirs`.

    Its weight file is a state dict.

    Args:
        network: the original implementation, whose tensors `fill` replaces with random ones.
        size: height and width of the random images from which `fill` computes BatchNorm's
            statistics. `logits` takes images of any size that the network supports.
    """

    dtypes = DTYPES

    def __init__(self, network: torch.nn.Module, size: Size):
        self.network = network
        fill(network, torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1)))

    def write(self, folder: Path) -> list[Path]:
        torch.save(self.network.state_dict(), folder / "theirs.pth")
        return [folder / "theirs.pth"]

    def logits(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network.to(getattr(torch, str(images.dtype)))(to_nchw(images)).numpy()


def timm(name: str, **options: object) -> torch.nn.Module:
    return library("timm").create_model(name, pretrained=False, **options)


def torchvision(name: str) -> torch.nn.Module:
    build = getattr(library("torchvision.models"), name)
    return build(weights=None, aux_logits=True, transform_input=True, init_weights=False)


def cadene(name: str, num_classes: int) -> torch.nn.Module:
    models = library("pretrainedmodels.models")
    return getattr(models, name)(num_classes=num_classes, pretrained=None)


def facenet(num_classes: int) -> torch.nn.Module:
    build = library("facenet_pytorch").InceptionResnetV1
    return build(classify=True, num_classes=num_classes, pretrained=None)


def pytorch_fid() -> torch.nn.Module:
    """Returns pytorch-fid's Inception V3 with random weights, without downloading its own."""
    module = library("pytorch_fid.inception")
    empty = library("torchvision.models").inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    )
    numbers = {"return_value": empty.state_dict()}
    with mock.patch.object(module, "load_state_dict_from_url", **numbers):
        return module.fid_inception_v3()


@torch.no_grad()
def fill(network: torch.nn.Module, images: torch.Tensor) -> None:
    """Sets a network's parameters to random values, and BatchNorm's running statistics to match.

    A forward pass of the images gives each BatchNorm the mean and variance of its input. This
    function then passes them to `runtime.hostile`, which changes them randomly and sets about 1 %
    of the variances to 1e-14. In these channels, BatchNorm's epsilon decides the result. This
    function multiplies BatchNorm's scale by 0.01 there, so that they do not dominate the others.

    Args:
        network: network to change.
        images: input [n, c, h, w] of the forward pass.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for name, tensor in network.named_parameters():
        if tensor.ndim >= 2:
            tensor.normal_(0, float(np.sqrt(2 / tensor[0].numel())))
        elif name.endswith("weight"):
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.normal_(0, 0.1)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance, few = hostile(rng, norm.running_mean.numpy(), norm.running_var.numpy())
        norm.running_mean.copy_(torch.from_numpy(mean))
        norm.running_var.copy_(torch.from_numpy(variance))
        norm.weight[torch.from_numpy(few)] *= 1e-2
