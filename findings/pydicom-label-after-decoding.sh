#!/usr/bin/env bash
# Guess: what a DICOM file says of its colours holds for the pixels that are read from it: an image
# whose Photometric Interpretation is YBR_FULL_422 is converted to RGB before it is shown.
# pydicom 3.0.2: pixel_array of a JPEG of dermoscopy's usual kind (baseline, 8 bits, YBR_FULL_422) is
# RGB already, since the decoder converts by default, and the data set still says YBR_FULL_422.
# Converting once more, as pydicom's own convert_color_space does without a word, turns a red lesion
# green. (pydicom.pixels.pixel_array(…, raw=True) leaves out the first conversion.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import JPEGBaseline8Bit, VLPhotographicImageStorage, generate_uid

jpeg = io.BytesIO()
Image.new("RGB", (64, 64), (200, 40, 40)).save(jpeg, "JPEG", quality=95)
made = Dataset()
made.file_meta = FileMetaDataset()
made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = VLPhotographicImageStorage
made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
made.Rows = made.Columns = 64
made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
made.PhotometricInterpretation = "YBR_FULL_422"
made.BitsAllocated = made.BitsStored = 8
made.HighBit, made.PixelRepresentation = 7, 0
made.PixelData = encapsulate([jpeg.getvalue()])
made["PixelData"].is_undefined_length = True
file = io.BytesIO()
made.save_as(file, enforce_file_format=True)
file.seek(0)

read = pydicom.dcmread(file)
pixels = read.pixel_array
again = convert_color_space(pixels, read.PhotometricInterpretation, "RGB")
print(f"pydicom {pydicom.__version__}: the middle was (200, 40, 40)")
print(f"pixel_array {pixels[32, 32]}, label {read.PhotometricInterpretation}, converted {again[32, 32]}")
assert np.abs(pixels[32, 32].astype(int) - (200, 40, 40)).max() <= 3, "this has changed"
assert read.PhotometricInterpretation == "YBR_FULL_422", "this has changed"
assert again[32, 32, 1] > 200, "this has changed"
PYTHON
