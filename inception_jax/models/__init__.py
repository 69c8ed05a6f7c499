"""Defines the networks, one file each. Importing this package registers all of them."""

from inception_jax.models.bn_inception import BNInception
from inception_jax.models.inception_next import InceptionNeXt
from inception_jax.models.inception_resnet_v1 import InceptionResNetV1
from inception_jax.models.inception_resnet_v2 import InceptionResNetV2
from inception_jax.models.inception_v1 import InceptionV1
from inception_jax.models.inception_v2 import InceptionV2
from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.models.inception_v4 import InceptionV4
from inception_jax.models.xception import Xception
from inception_jax.models.xception_aligned import XceptionAligned
from inception_jax.registry import list_models, model_class, model_info

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
    "list_models",
    "model_class",
    "model_info",
]
