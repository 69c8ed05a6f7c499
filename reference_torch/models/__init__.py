"""One file a network. Importing this package registers them all."""

from reference_torch.models.inception_v3 import InceptionV3
from reference_torch.models.xception import Xception

__all__ = ["InceptionV3", "Xception"]
