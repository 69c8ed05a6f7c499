"""The published weight files: their URLs and checksums."""

from __future__ import annotations

from typing import NamedTuple

from inception_jax.models import list_models, model_info


class Published(NamedTuple):
    """A weight file on the web.

    Attributes:
        address: URL of the file. `hf:REPOSITORY` is `model.safetensors` in a repository of the
            Hugging Face Hub, and is verified by the Hub's own SHA-256.
        checksum: "algorithm:digits", as stated by the publisher or by others. Short digits are the
            beginning of the checksum, from the file name. Empty: no checksum is known, and only the
            checksum inside the archive is verified.
    """

    address: str
    checksum: str = ""


_PYTORCH = "https://download.pytorch.org/models"
_CADENE = "http://data.lip6.fr/cadene/pretrainedmodels"  # its https has an expired certificate
_TIMM_RELEASES = "https://github.com/rwightman/pytorch-image-models/releases/download"
_FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_SLIM = "http://download.tensorflow.org/models"


PUBLISHED: dict[str, Published] = {
    "inception_v1.tv_in1k": Published(
        f"{_PYTORCH}/googlenet-1378be20.pth",
        "sha256:1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef",
    ),
    "inception_v1.slim_in1k": Published(
        f"{_SLIM}/inception_v1_2016_08_28.tar.gz",
        "sha256:7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6",
    ),
    "inception_v1.bvlc_in1k": Published(
        "http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        "sha256:6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
    ),
    "bn_inception.caffe_in1k": Published(
        f"{_CADENE}/bn_inception-52deb4733.pth",
        "sha256:52deb473314542a5c2f87e9e6f26f4ca42fe863d15f986414dbae8c2dfdd2353",
    ),
    "bn_inception.slim_in1k": Published(
        f"{_SLIM}/inception_v2_2016_08_28.tar.gz",
        "sha256:3b9d269984402003d8330affc4e1463c0b4cfd536339ad12446a48d72477480a",
    ),
    "inception_v3.tv_in1k": Published(
        f"{_PYTORCH}/inception_v3_google-0cc3c7bd.pth",
        "sha256:0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
    ),
    "inception_v3.keras_in1k": Published(
        f"{_KERAS}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:9a0d58056eeedaa3f26cb7ebd46da564",
    ),
    "inception_v3.slim_in1k": Published(f"{_SLIM}/inception_v3_2016_08_28.tar.gz"),
    "inception_v3.fid": Published(
        f"{_FID}/pt_inception-2015-12-05-6726825d.pth",
        "sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "inception_v4.cadene_in1k": Published(
        f"{_TIMM_RELEASES}/v0.1-cadene/inceptionv4-8e4777a0.pth", "sha256:8e4777a0"
    ),
    "inception_v4.slim_in1k": Published(
        f"{_SLIM}/inception_v4_2016_09_09.tar.gz",
        "sha256:272a2b24f68b2e51f3081479df075dd62b019ccda630e998fb7f6cf314c0f304",
    ),
    "inception_resnet_v1.vggface2": Published(
        f"{_FACENET}/20180402-114759-vggface2.pt",
        "sha256:281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    ),
    "inception_resnet_v1.casia_webface": Published(
        f"{_FACENET}/20180408-102900-casia-webface.pt",
        "sha256:7a67afdbbc995fce5e10128675e318799a70698c2f433ba75dd7eb9a2f096e7d",
    ),
    "inception_resnet_v2.keras_in1k": Published(
        f"{_KERAS}/inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:e693bd0210a403b3192acc6073ad2e96",
    ),
    "inception_resnet_v2.cadene_in1k": Published(
        f"{_CADENE}/inceptionresnetv2-520b38e4.pth", "sha256:520b38e4"
    ),
    "inception_resnet_v2.slim_in1k": Published(
        f"{_SLIM}/inception_resnet_v2_2016_08_30.tar.gz", "md5:9e0f18e1259acf943e30690460d96123"
    ),
    "xception.keras_in1k": Published(
        f"{_KERAS}/xception/xception_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:0a58e3b7378bc2990ea3b43d5981f1f6",
    ),
    "xception.tf_in1k": Published(
        f"{_TIMM_RELEASES}/v0.1-cadene/xception-43020ad28.pth", "sha256:43020ad28"
    ),
    "xception.cadene_in1k": Published(
        f"{_TIMM_RELEASES}/v0.1-cadene/xception-43020ad28.pth", "sha256:43020ad28"
    ),
    **{
        name: Published(f"hf:{info.source}")
        for name, info in ((name, model_info(name)) for name in list_models(tags=True))
        if info.source == f"timm/{name}"
    },
}
