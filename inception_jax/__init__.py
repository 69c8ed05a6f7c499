"""The Inception family in JAX, with the numbers of its sources."""

import lazy_loader

# Names are in __init__.pyi. Worker processes that read images need none that imports a network.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
