"""Networks as folders that the Hugging Face hub keeps: this library's, and timm's."""

from inception_jax.pretrained.folder import push_to_hub, save_pretrained

__all__ = ["push_to_hub", "save_pretrained"]
