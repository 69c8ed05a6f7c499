"""The Inception family of networks in JAX, with the same outputs as the published code."""

import lazy_loader

# The names are in __init__.pyi. Each is imported when it is first used, so that worker processes
# that only read images do not import the networks.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
