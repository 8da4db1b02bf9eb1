// A picture's file → the pixels that a network sees, as skinml.data.images.decode_image gives them:
// JPEGs by the same decoder, at the same reduced scale, in sRGB by the profile in the file, turned as
// EXIF says, scaled by the same filter. Of a browser's own decoding, scaling and colours, which
// differ from one to the next, nothing is used but that of PNGs, which lose nothing.

import {toSrgb} from "./colours.js";
import {readPicture} from "./formats.js";

const SIZE = 224;
const MAX_PIXELS = 89_000_000;

/** A File → Uint8Array(224 × 224 × 3), raw RGB 0–255; else a PictureProblem. */
export async function pixelsOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const picture = await readPicture(bytes, MAX_PIXELS, reduction);
  if (picture.profile) toSrgb(picture.pixels, picture.profile);
  return scaled(turned(picture));
}

/** By how much a JPEG is reduced while it is decoded: at least twice the target is left. */
function reduction(width, height) {
  const most = Math.min(Math.floor(width / (2 * SIZE)), Math.floor(height / (2 * SIZE)));
  return [8, 4, 2].find((step) => step <= most) ?? 1;
}

/** A picture as EXIF says that the camera was held, from 1 (as it is) to 8. */
function turned({pixels, width, height, orientation}) {
  if (orientation === 1) return {pixels, width, height};
  const swapped = orientation >= 5;
  const mirrored = [2, 3, 7, 8].includes(orientation);
  const upended = [3, 4, 6, 7].includes(orientation);
  const out = {
    pixels: new Uint8Array(pixels.length),
    width: swapped ? height : width,
    height: swapped ? width : height,
  };
  for (let y = 0, at = 0; y < out.height; y++) {
    for (let x = 0; x < out.width; x++, at += 3) {
      let [column, row] = swapped ? [y, x] : [x, y];
      if (mirrored) column = width - 1 - column;
      if (upended) row = height - 1 - row;
      const from = 3 * (row * width + column);
      out.pixels.set(pixels.subarray(from, from + 3), at);
    }
  }
  return out;
}

function scaled({pixels, width, height}) {
  const across = bicubic(width), down = bicubic(height);
  const narrow = new Uint8Array(height * SIZE * 3);
  for (let y = 0; y < height; y++) {
    const row = pixels.subarray(y * width * 3, (y + 1) * width * 3);
    filter(row, 3, across, narrow, y * SIZE * 3, 3);
  }
  const out = new Uint8Array(SIZE * SIZE * 3);
  for (let x = 0; x < SIZE; x++) {
    filter(narrow.subarray(x * 3), SIZE * 3, down, out, x * 3, SIZE * 3);
  }
  return out;
}

// Pillow's bicubic filter (libImaging/Resample.c), to the last bit: widened by the scale, so that
// no pixel is passed over, and in whole numbers of 22 bits.
const BITS = 22;

function bicubic(size) {
  const scale = size / SIZE, wide = Math.max(scale, 1), reach = 2 * wide;
  return Array.from({length: SIZE}, (_, number) => {
    const centre = (number + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), size);
    const weights = [];
    for (let x = first; x < end; x++) weights.push(cubic((x - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = weights.map((weight) => {
      const exact = (weight / sum) * 2 ** BITS;
      return Math.trunc(exact + (exact < 0 ? -0.5 : 0.5));
    });
    return {first, weights: whole};
  });
}

function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** One line of RGB pixels, `stride` apart, into `out` from `at`, `apart` apart. */
function filter(line, stride, taps, out, at, apart) {
  for (const {first, weights} of taps) {
    for (let channel = 0; channel < 3; channel++) {
      let sum = 2 ** (BITS - 1);
      for (let k = 0; k < weights.length; k++) {
        sum += line[(first + k) * stride + channel] * weights[k];
      }
      out[at + channel] = Math.min(Math.max(Math.floor(sum / 2 ** BITS), 0), 255);
    }
    at += apart;
  }
}
