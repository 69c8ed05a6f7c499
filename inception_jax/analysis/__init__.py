"""A network's stages, shapes, multiply-accumulates and heat maps."""
