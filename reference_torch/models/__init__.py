"""Defines the networks, one file each. Importing this package registers all of them."""

from reference_torch.models.bn_inception import BNInception
from reference_torch.models.inception_next import InceptionNeXt
from reference_torch.models.inception_resnet_v1 import InceptionResNetV1
from reference_torch.models.inception_resnet_v2 import InceptionResNetV2
from reference_torch.models.inception_v1 import InceptionV1
from reference_torch.models.inception_v2 import InceptionV2
from reference_torch.models.inception_v3 import InceptionV3
from reference_torch.models.inception_v4 import InceptionV4
from reference_torch.models.xception import Xception
from reference_torch.models.xception_aligned import XceptionAligned

__all__ = [
    "BNInception",
    "InceptionNeXt",
    "InceptionResNetV1",
    "InceptionResNetV2",
    "InceptionV1",
    "InceptionV2",
    "InceptionV3",
    "InceptionV4",
    "Xception",
    "XceptionAligned",
]
