#!/usr/bin/env bash
# Guess: Image.open(file, formats=["JPEG"]) opens JPEGs alone, so that what it returns has the format
# "JPEG"; a check of the format after it can refuse nothing.
# Pillow 13.0.0: a multi-picture file (CIPA DC-007), which many phones write under the ending .jpg
# (the picture and a smaller one, or a depth map, behind it), is opened by the JPEG plugin and
# returned as an image of the format "MPO" with two frames, though formats names JPEG alone. A service
# that then asks for format == "JPEG" refuses photos of phones, and one that walks over all frames
# gets a second picture of another size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import io

import PIL
from PIL import Image

picture = Image.effect_noise((64, 48), 40).convert("RGB")
file = io.BytesIO()
picture.save(file, "MPO", save_all=True, append_images=[picture.resize((32, 24))])
opened = Image.open(file, formats=["JPEG"])
sizes = []
for number in range(opened.n_frames):
    opened.seek(number)
    opened.load()
    sizes.append(opened.size)
print(f'Pillow {PIL.__version__}: formats=["JPEG"] returned {opened.format}, frames {sizes}')
assert (opened.format, sizes) == ("MPO", [(64, 48), (32, 24)]), "this has changed"
PYTHON
