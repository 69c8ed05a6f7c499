"""The Inception family of networks in JAX, with the same numbers as the published code."""

import lazy_loader

# Names are in __init__.pyi. Worker processes that read images need none that imports a network.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
