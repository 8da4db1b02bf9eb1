// JPEG and PNG files → RGB pixels, with the orientation and the colour profile that they bring.

const STRIP = 256; // rows of a PNG that are read at once
const DAMAGED = "damaged or truncated";

/** What is wrong with a file; its message is for a person. */
export class PictureProblem extends Error {}

/**
 * A file's bytes → {pixels: RGB as stored, width, height, orientation: 1 to 8, profile: ICC or null}.
 * A JPEG is decoded at a scale of 1/reduction(width, height); more than `most` pixels are a
 * PictureProblem, as is whatever else cannot be used.
 */
export async function readPicture(bytes, most, reduction) {
  const check = (width, height) => {
    if (width * height > most) {
      throw new PictureProblem(`${width}×${height} pixels, expected at most ${most}`);
    }
  };
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) {
    return readJpeg(bytes, check, reduction);
  }
  if (PNG.every((byte, i) => bytes[i] === byte)) return readPng(bytes, check);
  throw new PictureProblem("not a JPEG or PNG picture");
}

const ascii = (bytes, at, count) => String.fromCharCode(...bytes.subarray(at, at + count));

/** Which way up EXIF has a picture; 1, as it is, where it says nothing or is damaged. */
function orientationOf(exif) {
  try {
    const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
    const little = ascii(exif, 0, 2) === "II";
    const tags = view.getUint32(4, little), count = view.getUint16(tags, little);
    for (let at = tags + 2; at < tags + 2 + 12 * count; at += 12) {
      if (view.getUint16(at, little) !== 0x0112) continue;
      const type = view.getUint16(at + 2, little);
      // Two bytes, as EXIF has it, or four, as some write it; what else it is says nothing.
      const found = type === 3 ? view.getUint16(at + 8, little)
        : type === 4 ? view.getUint32(at + 8, little) : 1;
      return found >= 1 && found <= 8 ? found : 1;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}

// --- JPEG ------------------------------------------------------------------------------------

let libjpeg;

/** Load libjpeg-turbo, which is Python's decoder too: the same pixels, at each scale. */
export async function loadDecoder() {
  libjpeg = await WebAssembly.compile(await (await fetch("./jpeg/jpeg-turbo.wasm")).arrayBuffer());
}

async function readJpeg(given, check, reduction) {
  const bytes = given.slice();
  const {channels, exif, profile} = readSegments(bytes);
  if (channels === 4) {
    throw new PictureProblem(
      "colour mode CMYK, which this page does not read; convert it to 8-bit RGB");
  }
  return {
    ...await decodeJpeg(bytes, check, reduction),
    orientation: exif ? orientationOf(exif) : 1,
    profile: channels === 3 ? profile : null,
  };
}

/**
 * What a JPEG's headers say. They are rewritten where the decoder would warn of them, as it does of
 * damage, and what it then takes them for is known (_with_usual_headers, skinml/data/images.py).
 */
function readSegments(bytes) {
  const found = {channels: 0, exif: null, profile: null}, parts = [];
  let sequential = false, transform = 0, image = false;
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff;) {
    const marker = bytes[at + 1];
    if (marker === 0xff) { // a byte to fill up
      at += 1;
      continue;
    }
    const start = at + 4;
    let end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (marker === 0xd9 || end > bytes.length) break; // another picture may follow behind the end
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      found.channels = bytes[start + 5];
      sequential = [0xc0, 0xc1, 0xc9].includes(marker);
    }
    if (marker === 0xe0 && end - start >= 14 && ascii(bytes, start, 5) === "JFIF\0") {
      bytes[start + 5] = 1; // the version of JFIF
    }
    if (marker === 0xee && end - start >= 12 && ascii(bytes, start, 5) === "Adobe") {
      transform = start + 11;
    }
    if (!image && marker === 0xe1 && ascii(bytes, start, 6) === "Exif\0\0") {
      found.exif ??= bytes.subarray(start + 6, end);
    }
    if (!image && marker === 0xe2 && ascii(bytes, start, 12) === "ICC_PROFILE\0") {
      parts.push({number: bytes[start + 12], of: bytes[start + 13], at: start + 14, end});
    }
    if (marker === 0xda) { // a scan of the image itself
      image = true;
      // Some cameras write here what is meant for progressive ones.
      if (sequential) bytes.set([0, 63, 0], end - 3);
      end = nextHeader(bytes, end);
    }
    at = end;
  }
  if (transform && found.channels === 3 && bytes[transform] > 1) bytes[transform] = 1; // YCbCr
  parts.sort((a, b) => a.number - b.number);
  if (parts.length && parts[0].of === parts.length) {
    found.profile = concatenated(parts.map((part) => bytes.subarray(part.at, part.end)));
  }
  return found;
}

/** Where the data of a scan ends: at a marker that is neither a byte of it nor a restart. */
function nextHeader(bytes, at) {
  while ((at = bytes.indexOf(0xff, at)) >= 0) {
    const marker = bytes[at + 1];
    if (marker !== 0 && !(marker >= 0xd0 && marker <= 0xd7)) return at;
    at += 2;
  }
  return bytes.length;
}

async function decodeJpeg(bytes, check, reduction) {
  const fail = () => { throw new PictureProblem(DAMAGED); };
  // One instance a picture: its memory goes with it, and an error leaves nothing behind.
  const {exports: turbo} = await WebAssembly.instantiate(libjpeg, {
    env: {setjmp: () => 0, longjmp: fail},
    wasi_snapshot_preview1: {
      environ_sizes_get: () => 0,
      environ_get: fail, fd_close: fail, fd_seek: fail, fd_write: fail, proc_exit: fail,
    },
  });
  const room = (size) => {
    const at = turbo.malloc(size);
    if (at === 0) throw new PictureProblem("too large for the memory of this device");
    return at;
  };
  const file = room(bytes.length), said = room(16), decoder = turbo.tjInitDecompress();
  new Uint8Array(turbo.memory.buffer).set(bytes, file);
  const named = [said, said + 4, said + 8, said + 12];
  if (turbo.tjDecompressHeader3(decoder, file, bytes.length, ...named) !== 0) fail();
  const [full, tall] = new Int32Array(turbo.memory.buffer, said, 2);
  check(full, tall);
  const step = reduction(full, tall);
  const width = Math.ceil(full / step), height = Math.ceil(tall / step);
  const out = room(3 * width * height), rgb = 0, flags = 0;
  // Not 0 for a warning too, which is of damage: what cannot be decoded becomes gray or shifted.
  if (turbo.tjDecompress2(
    decoder, file, bytes.length, out, width, 3 * width, height, rgb, flags) !== 0) fail();
  return {pixels: new Uint8Array(turbo.memory.buffer, out, 3 * width * height), width, height};
}

// --- PNG -------------------------------------------------------------------------------------

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
// What would have a browser change a picture's colours, or turn it.
const CHUNKS = new Set(["iCCP", "gAMA", "cHRM", "sRGB", "cICP", "eXIf"]);

async function readPng(bytes, check) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const kept = [bytes.subarray(0, 8)];
  let orientation = 1, profile = null, gray = false;
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at);
    const name = ascii(bytes, at + 4, 4), content = bytes.subarray(at + 8, end - 4);
    if (name === "IHDR") {
      check(view.getUint32(at + 8), view.getUint32(at + 12));
      if (content[8] === 16) {
        throw new PictureProblem("16 bits a channel, expected 8; convert it to 8-bit RGB");
      }
      gray = content[9] === 0 || content[9] === 4;
    }
    if (name === "eXIf") orientation = orientationOf(content);
    if (name === "iCCP" && !gray) profile = await inflated(content);
    if (!CHUNKS.has(name)) kept.push(bytes.subarray(at, end));
    at = end;
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([concatenated(kept)], {type: "image/png"}), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new PictureProblem(DAMAGED);
  }
  const {width, height} = bitmap;
  return {pixels: rgbOf(bitmap), width, height, orientation, profile};
}

/** The profile of a chunk iCCP: a name, one byte of how it is packed, and zlib's data. */
async function inflated(content) {
  const packed = new Blob([content.subarray(content.indexOf(0) + 2)]);
  try {
    const plain = packed.stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(plain).arrayBuffer());
  } catch {
    return null;
  }
}

function rgbOf(bitmap) {
  const {width, height} = bitmap;
  const pixels = new Uint8Array(3 * width * height);
  const canvas = new OffscreenCanvas(width, Math.min(STRIP, height));
  const context = canvas.getContext("2d", {willReadFrequently: true, colorSpace: "srgb"});
  let to = 0;
  for (let top = 0; top < height; top += STRIP) {
    context.clearRect(0, 0, width, STRIP);
    context.drawImage(bitmap, 0, -top);
    const {data} = context.getImageData(0, 0, width, Math.min(STRIP, height - top));
    for (let i = 0; i < data.length; i += 4) {
      if (data[i + 3] !== 255) {
        bitmap.close();
        throw new PictureProblem("has transparent pixels; save it as plain RGB");
      }
      pixels[to++] = data[i];
      pixels[to++] = data[i + 1];
      pixels[to++] = data[i + 2];
    }
  }
  bitmap.close();
  return pixels;
}

function concatenated(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
