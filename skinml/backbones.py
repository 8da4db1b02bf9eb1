"""The networks that can be benchmarked: a row each in `BACKBONES`.

A new backbone is one row here; tests, the command line and the tables pick it up from there.
"""

import math
from typing import NamedTuple


class WeightsFile(NamedTuple):
    """Published ImageNet weights of a network without top, as Keras itself fetches them.

    `path` is below `_KERAS_FILES`; Keras publishes no MD5 of some. `cached_as` is the file's name
    in Keras's cache where that is another than in its address.
    """

    path: str
    md5: str | None = None
    cached_as: str = ""

    @property
    def url(self) -> str:
        return _KERAS_FILES + self.path

    @property
    def name(self) -> str:
        return self.cached_as or self.path.rpartition("/")[2]


# A number for all three channels, or one for each.
PerChannel = float | tuple[float, float, float]


class Backbone(NamedTuple):
    """A network of `keras.applications` and what Keras does not say about it itself.

    `application` is the constructor's name in `keras.applications`. `scale` and `offset` map raw
    pixels 0-255 to what the pre-trained network expects (pixels * scale + offset), each a number,
    or one for each channel; None where its first layers do that themselves.
    `published_parameters` (millions, with the ImageNet top) and `published_size` (MB) are those of
    the network's row in the source named beside it. `imagenet` are its published weights.
    `channel_scale`: what follows its `Normalization` layer in the network that these were trained
    in, and what Keras builds for that network alone.
    """

    application: str
    scale: PerChannel | None
    offset: PerChannel | None
    published_parameters: float
    published_size: float
    imagenet: WeightsFile
    channel_scale: tuple[float, ...] | None = None


# [-1, 1], as `keras.applications.<network>.preprocess_input` does in mode "tf".
_SYMMETRIC = (1 / 127.5, -1.0)
_INSIDE = (None, None)

_KERAS_FILES = "https://storage.googleapis.com/"
_FILES = "tensorflow/keras-applications"

_MOBILENET = WeightsFile(f"{_FILES}/mobilenet/mobilenet_1_0_224_tf_no_top.h5")
_MOBILENETV2 = WeightsFile(
    f"{_FILES}/mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
)
_NASNETMOBILE = WeightsFile(
    f"{_FILES}/nasnet/NASNet-mobile-no-top.h5",
    "1ed92395b5b598bdda52abe5c0dbfd63",
    cached_as="nasnet_mobile_no_top.h5",
)
_MOBILENETV3SMALL = WeightsFile(
    f"{_FILES}/mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
    "d3e8ec802a04aa4fc771ee12a9a9b836",
)
_MOBILENETV3LARGE = WeightsFile(
    f"{_FILES}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
    "07fb09a5933dd0c8eaafa16978110389",
)
_EFFICIENTNETB0 = WeightsFile(
    "keras-applications/efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"
)
_EFFICIENTNETV2B0 = WeightsFile(
    f"{_FILES}/efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"
)

# ImageNet's standard deviations, whose root the authors of EfficientNet divided by once more:
# https://github.com/tensorflow/tensorflow/issues/49930
_ONCE_MORE = tuple(1 / math.sqrt(deviation) for deviation in (0.229, 0.224, 0.225))

BACKBONES: dict[str, Backbone] = {
    # Parameters and sizes as the paper gives them (arXiv 2110.12270, section II).
    "mobilenet": Backbone("MobileNet", *_SYMMETRIC, 4.2, 16, _MOBILENET),
    "mobilenetv2": Backbone("MobileNetV2", *_SYMMETRIC, 3.5, 14, _MOBILENETV2),
    "nasnetmobile": Backbone("NASNetMobile", *_SYMMETRIC, 5.3, 23, _NASNETMOBILE),
    # Parameters and sizes as https://keras.io/api/applications lists them.
    "mobilenetv3small": Backbone("MobileNetV3Small", *_INSIDE, 2.9, 12, _MOBILENETV3SMALL),
    "mobilenetv3large": Backbone("MobileNetV3Large", *_INSIDE, 5.4, 22, _MOBILENETV3LARGE),
    "efficientnetb0": Backbone(
        "EfficientNetB0", *_INSIDE, 5.3, 29, _EFFICIENTNETB0, channel_scale=_ONCE_MORE
    ),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", *_INSIDE, 7.2, 29, _EFFICIENTNETV2B0),
}

# The three of the paper, in its order: what the default grid trains.
PAPER_BACKBONES = ("mobilenet", "mobilenetv2", "nasnetmobile")
