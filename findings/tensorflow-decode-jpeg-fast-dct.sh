#!/usr/bin/env bash
# Guess: a baseline JPEG has one picture in it, whichever library decodes it; TensorFlow and Pillow
# both bring libjpeg-turbo.
# TensorFlow 2.21.0: `tf.io.decode_jpeg` takes libjpeg's fast, less accurate transform unless it is
# told `dct_method="INTEGER_ACCURATE"`; then the pixels are Pillow's, each of them. By default a
# smooth picture is darker by nearly a level on average: a network that was trained behind one decoder
# and is asked behind the other sees another picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 pillow==13.0.0
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PYTHON' 2> log.txt || { cat log.txt >&2; exit 1; }
import io

import numpy as np
import tensorflow as tf
from PIL import Image

rng = np.random.default_rng(0)
small = rng.integers(90, 220, (12, 12, 3), dtype=np.uint8)
picture = Image.fromarray(small).resize((480, 480), Image.Resampling.BICUBIC)
print(f"TensorFlow {tf.__version__}, a smooth picture of 480×480, grey levels of 255")
for quality in (75, 90, 98):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0)
    pillow = np.asarray(Image.open(file)).astype(int)
    found = {}
    for method in ("", "INTEGER_FAST", "INTEGER_ACCURATE"):
        pixels = tf.io.decode_jpeg(file.getvalue(), dct_method=method).numpy().astype(int)
        found[method] = pixels - pillow
        print(f"quality {quality}  dct_method {method or 'default':<16}  mean difference from Pillow "
              f"{found[method].mean():+.2f}, largest {np.abs(found[method]).max()}")
    assert np.array_equal(found[""], found["INTEGER_FAST"]), "this has changed"
    assert not found["INTEGER_ACCURATE"].any(), "this has changed"
    assert found[""].any(), "this has changed"
PYTHON
