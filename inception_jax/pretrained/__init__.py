"""Saves networks as folders for the Hugging Face Hub, in the layout of this library or of timm."""

from inception_jax.pretrained.folder import push_to_hub, save_pretrained

__all__ = ["push_to_hub", "save_pretrained"]
