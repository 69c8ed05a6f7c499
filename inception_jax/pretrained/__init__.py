"""Networks as folders for the Hugging Face hub, in this library's layout and in timm's."""

from inception_jax.pretrained.folder import push_to_hub, save_pretrained

__all__ = ["push_to_hub", "save_pretrained"]
