// Pixels in the colours of an ICC profile → sRGB, as Little CMS does it for Python: in whole numbers
// of 14 bits, relative colorimetric. Cameras, phones and Adobe RGB have profiles of a curve for each
// channel and a matrix; of tables, which scanners have, this page knows nothing.

import {PictureProblem} from "./formats.js";

const ONE = 2 ** 14;

// XYZ of D50, which profiles count in → linear sRGB: its primaries and D65, adapted by Bradford.
const FROM_XYZ = [
  [3.13418636, -1.61720896, -0.49069406],
  [-0.9787485, 1.9161301, 0.0334334],
  [0.07196393, -0.22899387, 1.40575373],
];

/** Convert RGB pixels in place; a profile of sRGB itself, or one that is damaged, changes nothing. */
export function toSrgb(pixels, profile) {
  const found = read(profile);
  if (!found) return;
  const curves = found.curves.map((curve) =>
    Float64Array.from({length: 256}, (_, i) => Math.floor(curve(i / 255) * ONE + 0.5)));
  const matrix = FROM_XYZ.map((row) => found.colours[0].map((_, channel) => {
    const sum = row.reduce((all, value, i) => all + value * found.colours[channel][i], 0);
    return Math.floor(sum * ONE + 0.5);
  }));
  for (let at = 0; at < pixels.length; at += 3) {
    const red = curves[0][pixels[at]];
    const green = curves[1][pixels[at + 1]];
    const blue = curves[2][pixels[at + 2]];
    for (let channel = 0; channel < 3; channel++) {
      const row = matrix[channel];
      const linear = Math.floor((row[0] * red + row[1] * green + row[2] * blue) / ONE + 0.5);
      pixels[at + channel] = ENCODED[Math.min(Math.max(linear, 0), ONE)];
    }
  }
}

const ENCODED = Uint8Array.from({length: ONE + 1}, (_, i) => {
  const linear = i / ONE;
  const value = linear <= 0.04045 / 12.92 ? 12.92 * linear : 1.055 * linear ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(value, 1));
});

/** A profile → {curves: a function each of R, G, B, colours: XYZ of each}, null where it is none. */
function read(profile) {
  const view = new DataView(profile.buffer, profile.byteOffset, profile.byteLength);
  const tags = tagsOf(view, profile);
  if (!tags) return null;
  if (tags.A2B0 || tags.A2B1) {
    throw new PictureProblem(
      "its colour profile has tables, which this page does not read; save it as sRGB");
  }
  const channels = ["r", "g", "b"], number = (at) => view.getInt32(at) / 65536;
  try {
    return {
      colours: channels.map((c) => [8, 12, 16].map((at) => number(tags[`${c}XYZ`] + at))),
      curves: channels.map((c) => curveAt(view, tags[`${c}TRC`], number)),
    };
  } catch {
    throw new PictureProblem("its colour profile cannot be used");
  }
}

/** Where a profile of RGB has each of its tags; null for sRGB's own, and what is damaged or none. */
function tagsOf(view, profile) {
  const name = (at) => String.fromCharCode(...profile.subarray(at, at + 4));
  try {
    if (name(36) !== "acsp" || name(16) !== "RGB ") return null;
    const tags = {};
    let description = "";
    for (let i = 0, at = 132; i < view.getUint32(128); i++, at += 12) {
      const start = view.getUint32(at + 4), end = start + view.getUint32(at + 8);
      tags[name(at)] = start;
      if (name(at) === "desc") {
        description = new TextDecoder("latin1").decode(profile.subarray(start, end));
      }
    }
    return description.replaceAll("\0", "").toLowerCase().includes("srgb") ? null : tags;
  } catch {
    return null;
  }
}

/** A curve (ICC.1:2022, 10.6 and 10.18): from a channel's value to linear light, both 0 to 1. */
function curveAt(view, at, number) {
  if (view.getUint32(at) === 0x63757276) { // "curv"
    const count = view.getUint32(at + 8);
    if (count === 0) return (x) => x;
    if (count === 1) return (x) => x ** (view.getUint16(at + 12) / 256);
    const values = Array.from({length: count}, (_, i) => view.getUint16(at + 12 + 2 * i));
    return (x) => {
      const place = Math.round(x * 65535) * (count - 1);
      const fixed = place + Math.floor((place + 0x7fff) / 0xffff); // of 16 bits after the point
      const low = Math.floor(fixed / 65536), rest = fixed % 65536;
      const step = (values[low + 1] ?? values[low]) - values[low];
      return (values[low] + Math.floor((step * rest + 0x8000) / 65536)) / 65535;
    };
  }
  const kind = view.getUint16(at + 8);
  const [g, a, b, c, d, e, f] = Array.from(
    {length: [1, 3, 4, 5, 7][kind]}, (_, i) => number(at + 12 + 4 * i));
  return [
    (x) => x ** g,
    (x) => (x >= -b / a ? (a * x + b) ** g : 0),
    (x) => (x >= -b / a ? (a * x + b) ** g + c : c),
    (x) => (x >= d ? (a * x + b) ** g : c * x),
    (x) => (x >= d ? (a * x + b) ** g + e : c * x + f),
  ][kind];
}
