"""The names of all networks and tags, for lists and suggestions without importing JAX.

`inception_jax/models/` defines the networks, but importing them takes a second. A test compares
this table with the networks.
"""

from __future__ import annotations

import fnmatch

TAGS: dict[str, tuple[str, ...]] = {
    "bn_inception": ("caffe_in1k", "slim_in1k"),
    "inception_next_atto": ("sail_in1k",),
    "inception_next_base": ("sail_in1k", "sail_in1k_384"),
    "inception_next_small": ("sail_in1k",),
    "inception_next_tiny": ("sail_in1k",),
    "inception_resnet_v1": ("casia_webface", "paper", "vggface2"),
    "inception_resnet_v2": (
        "cadene_in1k",
        "keras_in1k",
        "paper",
        "slim_in1k",
        "tf_ens_adv_in1k",
        "tf_in1k",
    ),
    "inception_v1": ("bvlc_in1k", "slim_in1k", "tv_in1k"),
    "inception_v2": ("blog", "paper"),
    "inception_v3": (
        "fid",
        "gluon_in1k",
        "keras_in1k",
        "slim_in1k",
        "tf_adv_in1k",
        "tf_in1k",
        "tv_in1k",
    ),
    "inception_v4": ("cadene_in1k", "slim_in1k", "tf_in1k"),
    "xception": ("cadene_in1k", "keras_in1k", "tf_in1k"),
    "xception41": ("tf_in1k",),
    "xception41p": ("ra3_in1k",),
    "xception65": ("ra3_in1k", "tf_in1k"),
    "xception65p": ("ra3_in1k",),
    "xception71": ("tf_in1k",),
}


def matching(pattern: str = "*", *, tags: bool = False) -> list[str]:
    """Returns the sorted names that match a shell pattern, see `list_models`."""
    names = [
        f"{arch}.{tag}" if tags else arch
        for arch in TAGS
        for tag in (TAGS[arch] if tags else ("",))
    ]
    return sorted(
        name
        for name in names
        if fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.partition(".")[0], pattern)
    )
