"""One file a network. Importing this package registers them all."""

from inception_jax.models.inception_v3 import InceptionV3
from inception_jax.models.xception import Xception

__all__ = ["InceptionV3", "Xception"]
