"""The networks that can be benchmarked: a row each in `BACKBONES`.

A new backbone is one row here; tests, the command line and the tables pick it up from there.
"""

from typing import NamedTuple


class Backbone(NamedTuple):
    """A network of `keras.applications` and what Keras does not say about it itself.

    `application` is the constructor's name in `keras.applications`. `scale` and `offset` map raw
    pixels 0-255 to what the pre-trained network expects (pixels * scale + offset); None where
    its first layers do that themselves. `published_parameters` (millions, with the ImageNet top)
    and `published_size` (MB) are those of the network's row in the source named beside it.
    """

    application: str
    scale: float | None
    offset: float | None
    published_parameters: float
    published_size: float


# [-1, 1], as `keras.applications.<network>.preprocess_input` does in mode "tf".
_SYMMETRIC = (1 / 127.5, -1.0)
_INSIDE = (None, None)

BACKBONES: dict[str, Backbone] = {
    # Parameters and sizes as the paper gives them (arXiv 2110.12270, section II).
    "mobilenet": Backbone("MobileNet", *_SYMMETRIC, 4.2, 16),
    "mobilenetv2": Backbone("MobileNetV2", *_SYMMETRIC, 3.5, 14),
    "nasnetmobile": Backbone("NASNetMobile", *_SYMMETRIC, 5.3, 23),
    # Parameters and sizes as https://keras.io/api/applications lists them.
    "mobilenetv3small": Backbone("MobileNetV3Small", *_INSIDE, 2.9, 12),
    "mobilenetv3large": Backbone("MobileNetV3Large", *_INSIDE, 5.4, 22),
    "efficientnetb0": Backbone("EfficientNetB0", *_INSIDE, 5.3, 29),
    "efficientnetv2b0": Backbone("EfficientNetV2B0", *_INSIDE, 7.2, 29),
}

# The three of the paper, in its order: what the default grid trains.
PAPER_BACKBONES = ("mobilenet", "mobilenetv2", "nasnetmobile")
