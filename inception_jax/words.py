"""Other libraries' names for networks, options and methods, as plain data without JAX or PyTorch.

An error for such a name suggests this library's tag. The name itself is not accepted, because it
often stands for several sets of weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from inception_jax.nearest import did_you_mean, nearest

_KERAS = "Keras"
_TIMM = "timm"
_TORCHVISION = "torchvision"
_SLIM = "TF-slim"
_CADENE = "Cadene's pretrainedmodels"
_FACENET = "facenet-pytorch"
_FACENET_TF = "davidsandberg/facenet"
_FID = "pytorch-fid, torch-fidelity"
_SAIL = "sail-sg/inceptionnext"

NAMES: tuple[tuple[str, str, str], ...] = (
    # Another library's name, that library, and the tag here.
    ("googlenet", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_Weights.IMAGENET1K_V1", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_Weights.DEFAULT", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_Weights", _TORCHVISION, "inception_v1.tv_in1k"),
    ("quantized_googlenet", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_QuantizedWeights.IMAGENET1K_FBGEMM_V1", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_QuantizedWeights.DEFAULT", _TORCHVISION, "inception_v1.tv_in1k"),
    ("GoogLeNet_QuantizedWeights", _TORCHVISION, "inception_v1.tv_in1k"),
    ("googlenet-1378be20", _TORCHVISION, "inception_v1.tv_in1k"),
    ("googlenet", "Caffe", "inception_v1.bvlc_in1k"),
    ("bvlc_googlenet", "Caffe", "inception_v1.bvlc_in1k"),
    ("googlenet-v1", "OpenVINO", "inception_v1.bvlc_in1k"),
    ("InceptionV1", _SLIM, "inception_v1.slim_in1k"),
    ("inception_v1_2016_08_28", _SLIM, "inception_v1.slim_in1k"),
    ("bninception", _CADENE, "bn_inception.caffe_in1k"),
    ("BNInception", _CADENE, "bn_inception.caffe_in1k"),
    ("bn_inception-52deb4733", _CADENE, "bn_inception.caffe_in1k"),
    ("InceptionV2", _SLIM, "bn_inception.slim_in1k"),
    ("inception_v2_2016_08_28", _SLIM, "bn_inception.slim_in1k"),
    ("inception_v2.slim_in1k", _SLIM, "bn_inception.slim_in1k"),
    ("InceptionV3", _KERAS, "inception_v3.keras_in1k"),
    ("InceptionV3", _SLIM, "inception_v3.slim_in1k"),
    ("InceptionV3", "GluonCV", "inception_v3.gluon_in1k"),
    ("InceptionV3", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception3", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_Weights.IMAGENET1K_V1", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_Weights.DEFAULT", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_Weights", _TORCHVISION, "inception_v3.tv_in1k"),
    ("quantized_inception_v3", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_QuantizedWeights.IMAGENET1K_FBGEMM_V1", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_QuantizedWeights.DEFAULT", _TORCHVISION, "inception_v3.tv_in1k"),
    ("Inception_V3_QuantizedWeights", _TORCHVISION, "inception_v3.tv_in1k"),
    ("inception_v3_google", _TORCHVISION, "inception_v3.tv_in1k"),
    ("inception_v3_google-0cc3c7bd", _TORCHVISION, "inception_v3.tv_in1k"),
    ("tv_inception_v3", _TIMM, "inception_v3.tv_in1k"),
    ("tf_inception_v3", _TIMM, "inception_v3.tf_in1k"),
    ("adv_inception_v3", _TIMM, "inception_v3.tf_adv_in1k"),
    ("adv_inception_v3_2017_08_18", _SLIM, "inception_v3.tf_adv_in1k"),
    ("gluon_inception_v3", _TIMM, "inception_v3.gluon_in1k"),
    ("inception_v3_2016_08_28", _SLIM, "inception_v3.slim_in1k"),
    ("fid_inception_v3", _FID, "inception_v3.fid"),
    ("FIDInceptionV3", _FID, "inception_v3.fid"),
    ("FeatureExtractorInceptionV3", _FID, "inception_v3.fid"),
    ("inception-v3-compat", _FID, "inception_v3.fid"),
    ("inception-2015-12-05", _FID, "inception_v3.fid"),
    ("pt_inception-2015-12-05-6726825d", _FID, "inception_v3.fid"),
    ("weights-inception-2015-12-05-6726825d", _FID, "inception_v3.fid"),
    ("InceptionV4", _TIMM, "inception_v4.tf_in1k"),
    ("InceptionV4", _CADENE, "inception_v4.cadene_in1k"),
    ("InceptionV4", _SLIM, "inception_v4.slim_in1k"),
    ("inceptionv4-8e4777a0", _CADENE, "inception_v4.cadene_in1k"),
    ("inception_v4_2016_09_09", _SLIM, "inception_v4.slim_in1k"),
    ("facenet", _FACENET, "inception_resnet_v1.vggface2"),
    ("InceptionResnetV1", _FACENET, "inception_resnet_v1.vggface2"),
    ("InceptionResnetV1", _FACENET, "inception_resnet_v1.casia_webface"),
    ("vggface2", _FACENET, "inception_resnet_v1.vggface2"),
    ("casia-webface", _FACENET, "inception_resnet_v1.casia_webface"),
    ("20180402-114759", _FACENET_TF, "inception_resnet_v1.vggface2"),
    ("20180402-114759-vggface2", _FACENET, "inception_resnet_v1.vggface2"),
    ("20180408-102900", _FACENET_TF, "inception_resnet_v1.casia_webface"),
    ("20180408-102900-casia-webface", _FACENET, "inception_resnet_v1.casia_webface"),
    ("InceptionResNetV2", _KERAS, "inception_resnet_v2.keras_in1k"),
    ("InceptionResnetV2", _TIMM, "inception_resnet_v2.tf_in1k"),
    ("InceptionResnetV2", _CADENE, "inception_resnet_v2.cadene_in1k"),
    ("InceptionResnetV2", _SLIM, "inception_resnet_v2.slim_in1k"),
    ("ens_adv_inception_resnet_v2", _TIMM, "inception_resnet_v2.tf_ens_adv_in1k"),
    (
        "ens_adv_inception_resnet_v2_2017_08_18",
        _SLIM,
        "inception_resnet_v2.tf_ens_adv_in1k",
    ),
    ("inceptionresnetv2-520b38e4", _CADENE, "inception_resnet_v2.cadene_in1k"),
    ("inception_resnet_v2_2016_08_30", _SLIM, "inception_resnet_v2.slim_in1k"),
    ("Xception", _KERAS, "xception.keras_in1k"),
    ("Xception", _TIMM, "xception.tf_in1k"),
    ("Xception", _CADENE, "xception.cadene_in1k"),
    ("legacy_xception", _TIMM, "xception.tf_in1k"),
    ("legacy_xception.tf_in1k", _TIMM, "xception.tf_in1k"),
    ("xception-43020ad28", _CADENE, "xception.cadene_in1k"),
    ("xception_41", "TensorFlow DeepLab", "xception41.tf_in1k"),
    ("xception_65", "TensorFlow DeepLab", "xception65.tf_in1k"),
    ("xception_71", "TensorFlow DeepLab", "xception71.tf_in1k"),
    ("XceptionAligned", _TIMM, "xception65.tf_in1k"),
    ("inceptionnext_atto", _SAIL, "inception_next_atto.sail_in1k"),
    ("inceptionnext_tiny", _SAIL, "inception_next_tiny.sail_in1k"),
    ("inceptionnext_small", _SAIL, "inception_next_small.sail_in1k"),
    ("inceptionnext_base", _SAIL, "inception_next_base.sail_in1k"),
    ("inceptionnext_base_384", _SAIL, "inception_next_base.sail_in1k_384"),
)

WEIGHTS: tuple[tuple[str, str], ...] = (
    # Other libraries' values for published weights, with the library.
    ("imagenet", "Keras' and Cadene's"),
    ("imagenet+background", "Cadene's"),
    ("IMAGENET1K_V1", "torchvision's"),
    ("IMAGENET1K_FBGEMM_V1", "torchvision's"),
    ("DEFAULT", "torchvision's"),
    ("pretrained", "timm's"),
    ("True", "timm's"),
)

OPTIONS: dict[str, str] = {
    # Options of timm's, torchvision's, Keras' and facenet-pytorch's constructors.
    "pretrained": "weights=True loads the tag's published file",
    "checkpoint_path": "weights=PATH",
    "in_chans": "in_channels=...",
    "drop_rate": "dropout=...",
    "drop_path_rate": "drop_path=..., for InceptionNeXt and the aligned Xceptions",
    "features_only": "ij.feature_extractor(model), whose stages are timm's where timm has them; in "
    "PyTorch model.features(images), with the names in model.taps",
    "out_indices": "ij.feature_extractor(model, [STAGE, ...]) with names, see ij.feature_info",
    "global_pool": "model.features(images) has the maps before pooling, model.embed(images) the "
    "pooled ones",
    "pooling": "num_classes=0 gives pooled features",
    "pretrained_cfg": "preprocessing belongs to the tag, see ij.model_info",
    "pretrained_cfg_overlay": "preprocessing belongs to the tag, see ij.model_info",
    "scriptable": "ij.jit_predict(model) compiles, ij.export(model) writes a program",
    "exportable": "ij.export(model) writes a program",
    "cache_dir": "the environment variable INCEPTION_JAX_CACHE; for the hub HF_HUB_CACHE",
    "aux_logits": "aux_heads=True",
    "init_weights": "random parameters are drawn from rngs=...",
    "progress": "published files are fetched with a progress bar",
    "classes": "num_classes=...",
    "include_top": "num_classes=0 in place of include_top=False",
    "input_shape": "in_channels=..., and images of any size from model_info(NAME).min_size on",
    "input_tensor": "call the model with images",
    "classifier_activation": "jax.nn.softmax(logits): models return logits",
    "classify": "model(images) returns logits, model.embed(images) embeddings",
    "dropout_prob": "dropout=...",
    "device": "jax.device_put, or jax.default_device; in PyTorch model.to(device)",
    "nb_classes": "num_classes=...",
    "alpha": "width_multiplier=...",
    "depth_multiplier": "width_multiplier=...",
    "dropout_rate": "dropout=...",
    "momentum": "bn_momentum=..., the share of the old average that is kept",
    "eps": "bn_eps=...",
}

ATTRIBUTES: dict[str, str] = {
    # Attributes and methods of timm's networks that the networks here do not have.
    "feature_info": "ij.feature_info(model)",
    "default_cfg": "model.info",
    "pretrained_cfg": "model.info",
    "in_chans": "model.in_channels",
    "drop_rate": "model.dropout.rate; in PyTorch model.dropout.p",
    "head_hidden_size": "model.forward_head(maps, pre_logits=True).shape[1]",
    "global_pool": "model.embed(images) returns the pooled features",
    "forward_intermediates": "model.features(images) returns every stage's map by its name",
    "get_intermediate_layers": "model.features(images) returns every stage's map by its name",
    "set_grad_checkpointing": "inception_jax.nn.remat.rematerialised(function)",
    "set_input_size": "images of any size from model.min_size on are taken",
    "no_weight_decay": "mask what has one axis: jax.tree.map(lambda x: x.ndim > 1, params)",
    "group_matcher": "model.layer_order lists all layers from the image to the classifier",
    "last_linear": "model.get_classifier()",
    "classif": "model.get_classifier()",
    "head_drop": "model.dropout",
    "state_dict": "ij.to_torch(model), or nnx.state(model)",
    "parameters": "nnx.state(model, nnx.Param)",
    "predict": "ij.classify(model, images), or ij.jit_predict(model)(images)",
}


def key_of(name: str) -> str:
    """Returns a name in lower case without punctuation, so that different spellings are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY: dict[str, dict[str, list[str]]] = {}
for _name, _who, _tag in NAMES:
    _who_by_tag = _BY_KEY.setdefault(key_of(_name), {}).setdefault(_tag, [])
    if _who not in _who_by_tag:
        _who_by_tag.append(_who)


def about_name(name: str, known: Iterable[str]) -> str:
    """Returns an error message for an unknown name, with its meaning in other libraries.

    If other libraries do not use the name, the message suggests similar names.

    Args:
        name: the unknown name.
        known: this library's names of networks, with and without tags.
    """
    known = list(known)
    if "/" in name and ":" not in name:
        return (
            f"{name!r} looks like a folder or a repository of the Hugging Face hub: "
            f"ij.load({name!r}), or ij.load('hf-hub:{name}')"
        )
    meant = _BY_KEY.get(key_of(name))
    if meant:
        answers = [f"{tag} ({', '.join(who)})" for tag, who in meant.items()]
        return f"{name!r} is called {' or '.join(answers)} here"
    arch, _, tag = name.partition(".")
    if arch in known and tag:
        tags = [other.partition(".")[2] for other in known if other.startswith(f"{arch}.")]
        hint = did_you_mean(tag, tags, prefix=f"{arch}.")
        return f"{arch} has no tag {tag!r}; it has {', '.join(tags)}{hint}"
    return f"unknown model {name!r}; {_nearest(name, known)}"


def _nearest(name: str, known: list[str]) -> str:
    foreign = {key: next(iter(tags)) for key, tags in _BY_KEY.items()}
    meant = {**foreign, **{own: own for own in known}}
    wanted = [*nearest(name, meant), *nearest(name.partition(".")[0], meant, count=2)]
    near = dict.fromkeys(meant[word] for word in wanted)
    if not near:
        return "all are in list_models(), or `inception-jax list`"
    return f"did you mean {', '.join(near)}?"


def about_weights(word: object, name: str, known: Iterable[str]) -> str | None:
    """Returns an error message for another library's word for published weights.

    Args:
        word: value given for `weights`: text, or a member of torchvision's enumerations.
        name: name of the network.
        known: names of the form `arch.tag` that have published weights.

    Returns:
        The message, which suggests `weights=True` with a name that has published weights; None if
            `word` is no such word.
    """
    known, kind = list(known), type(word).__name__
    if not isinstance(word, str) and "Weights" not in kind:
        return None
    text = word if isinstance(word, str) else f"{kind}.{getattr(word, 'name', '')}"
    owners = [who for known_word, who in WEIGHTS if known_word.lower() == text.lower()]
    meant = list(_BY_KEY.get(key_of(text), {}))
    if not owners and not meant:
        return None
    if name in known:
        wanted = name
    else:
        arch = name.partition(".")[0]
        wanted = " or ".join(tag for tag in known if tag.partition(".")[0] == arch)
        wanted = wanted or "a tag that has published weights"
    if meant:
        wanted = " or ".join(meant)
    whose = f"{owners[0]} word" if owners else "another library's word"
    return f"weights={text!r} is {whose}: weights=True loads the published file of {wanted}"


def about_option(option: str, arch: str, own: Iterable[str]) -> str:
    """Returns an error message for an unknown option, with this library's equivalent.

    If there is no equivalent, the message suggests similar names.

    Args:
        option: the unknown keyword.
        arch: name of the network.
        own: all keyword arguments of `create_model` for this network.
    """
    if option in OPTIONS:
        return f"{option} is another library's word; here: {OPTIONS[option]}"
    own = sorted(own)
    near = nearest(option, own, count=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(own)}"
    return f"{arch} has no option {option!r}; {hint}"


def about_attribute(model: object, attribute: str) -> str:
    """Returns the message of an AttributeError, with this library's equivalent if it is known."""
    message = f"{type(model).__name__!r} object has no attribute {attribute!r}"
    if attribute in ATTRIBUTES:
        message += f"; here: {ATTRIBUTES[attribute]}"
    return message


def check_counts(num_classes: Any, in_channels: Any) -> None:
    """Checks the number of classes and of channels.

    Raises:
        ValueError: if they are not integers, `num_classes` is below 0, or `in_channels` below 1.
    """
    for what, value, least, more in (
        ("num_classes", num_classes, 0, "; 0 gives features without a classifier"),
        ("in_channels", in_channels, 1, ""),
    ):
        right = hasattr(value, "__index__") and not isinstance(value, bool)
        if not right or value.__index__() < least:
            raise ValueError(f"{what} must be a whole number of at least {least}{more}: {value!r}")
