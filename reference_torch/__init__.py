"""The Inception family of networks in PyTorch, the twin of `inception_jax`."""

from reference_torch import models
from reference_torch.registry import UnknownModelError, create_model, list_models

__all__ = ["UnknownModelError", "create_model", "list_models", "models"]
