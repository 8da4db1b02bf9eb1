"""How a picture of the demo set is painted: an imitation of dermoscopy.

Each lesion is painted from a `Look`: how strongly it shows each of the signs by which
dermatologists tell the three classes apart. Everything that says nothing about the class (skin
tone, light, hairs, vignette, size, place) is drawn the same way for all. One file, as the parts of
a picture are painted over each other: none is understood alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from skinml.data.isic2017 import CLASSES

# PIL draws discs and lines without antialiasing: draw them larger and average.
OVERSAMPLING = 2


# Fields (height, width) and pictures (3, height, width) are float32, points (n, 2) float64.
Array = npt.NDArray[np.floating]


class Look(NamedTuple):
    """How strongly a lesion shows each dermoscopic sign, from 0 (absent) to 1 (striking)."""

    asymmetry: float  # of the outline and of the pigment
    notches: float  # an irregular, jagged border
    demarcation: float  # a border that ends abruptly, as if stuck on
    network: float  # regular honeycomb of pigment
    unevenness: float  # blotches of lighter and darker pigment
    redness: float
    veil: float  # blue-grey, structureless
    regression: float  # white, scar-like
    globules: float  # scattered brown-black dots
    streaks: float  # radial projections at the border
    fissures: float  # cerebriform furrows on a waxy surface
    cysts: float  # milia-like: small bright dots
    openings: float  # comedo-like: larger dark dots
    yellowness: float


LOOKS = {
    "melanoma": Look(
        asymmetry=0.9,
        notches=0.8,
        demarcation=0.6,
        network=0.4,
        unevenness=0.9,
        redness=0.6,
        veil=0.8,
        regression=0.6,
        globules=0.8,
        streaks=0.8,
        fissures=0.0,
        cysts=0.0,
        openings=0.0,
        yellowness=0.1,
    ),
    "nevus": Look(
        asymmetry=0.15,
        notches=0.1,
        demarcation=0.35,
        network=0.8,
        unevenness=0.2,
        redness=0.1,
        veil=0.0,
        regression=0.0,
        globules=0.15,
        streaks=0.0,
        fissures=0.0,
        cysts=0.0,
        openings=0.0,
        yellowness=0.15,
    ),
    "seborrheic_keratosis": Look(
        asymmetry=0.35,
        notches=0.35,
        demarcation=1.0,
        network=0.05,
        unevenness=0.4,
        redness=0.1,
        veil=0.15,
        regression=0.0,
        globules=0.05,
        streaks=0.0,
        fissures=0.8,
        cysts=0.8,
        openings=0.7,
        yellowness=0.8,
    ),
}


def channels(red: float, green: float, blue: float) -> Array:
    """Three numbers as an array (3, 1, 1), which meets fields (height, width) in a picture."""
    return np.array([red, green, blue], np.float32)[:, None, None]


# How strongly each pigment swallows red, green and blue light (Beer-Lambert, per unit of density).
MELANIN = channels(0.54, 0.88, 1.10)


KERATIN = channels(0.32, 0.55, 1.10)


BLOOD = channels(0.10, 0.75, 0.60)


# Colours from 0 to 1.
FAIR_SKIN = channels(0.93, 0.74, 0.68)


TAN_SKIN = channels(0.76, 0.55, 0.43)


BLUE_GREY = channels(0.36, 0.40, 0.48)


SCAR_WHITE = channels(0.90, 0.80, 0.77)


HORN_YELLOW = channels(0.95, 0.86, 0.68)


PLUG_BROWN = channels(0.17, 0.10, 0.07)


HAIR = channels(0.16, 0.11, 0.10)


class Canvas:
    """The pixel grid of one picture, and the random brushes that paint on it.

    Lengths are in units of the picture's short side, so that it looks alike at any size, and the
    origin is its middle. Every brush returns a float32 field of shape (height, width).
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng = rng
        self.size = size
        self.unit = min(size)
        width, height = (pixels / self.unit for pixels in size)
        self.half = (width / 2, height / 2)
        self.x = np.linspace(-width / 2, width / 2, size[0], dtype=np.float32)[None, :]
        self.y = np.linspace(-height / 2, height / 2, size[1], dtype=np.float32)[:, None]

    def noise(self, frequency: float) -> Array:
        """Smooth noise of mean 0 and deviation 1 with about `frequency` bumps per unit length."""
        columns, rows = (math.ceil(frequency * pixels / self.unit) + 1 for pixels in self.size)
        coarse = Image.fromarray(self.rng.standard_normal((rows, columns), dtype=np.float32))
        # Interpolating leaves about 0.83 of the deviation.
        return np.asarray(coarse.resize(self.size, Image.Resampling.BICUBIC)) / 0.83

    def discs(self, centres: Array, radii: Array) -> Array:
        """Discs at `centres` (n, 2) with `radii` (n,), of unlike strength: 0 to 1."""
        layer, pen = self._layer()
        radii = radii * self.unit * OVERSAMPLING
        for (x, y), radius in zip(self._to_layer(centres), radii, strict=True):
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, fill=int(self.rng.integers(110, 256)))
        return self._field(layer)

    def lines(self, lines: Sequence[Array], widths: Sequence[float]) -> Array:
        """Polylines, each (n, 2), with one width each: 0 to 1."""
        layer, pen = self._layer()
        for line, width in zip(lines, widths, strict=True):
            pixels = round(width * self.unit * OVERSAMPLING)
            pen.line(self._to_layer(line), fill=255, width=max(1, pixels))
        return self._field(layer)

    def _layer(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        layer = Image.new("L", (self.size[0] * OVERSAMPLING, self.size[1] * OVERSAMPLING))
        return layer, ImageDraw.Draw(layer)

    def _to_layer(self, points: Array) -> list[tuple[float, float]]:
        pixels = (points + self.half) * (self.unit * OVERSAMPLING)
        return [(x, y) for x, y in pixels.tolist()]

    @staticmethod
    def _field(layer: Image.Image) -> Array:
        return np.asarray(layer.reduce(OVERSAMPLING), np.float32) / 255


def sigmoid(x: Array) -> Array:
    """The logistic function, elementwise."""
    values: Array = 0.5 + 0.5 * np.tanh(0.5 * x)
    return values


def cords(noise: Array, width: float) -> Array:
    """Winding lines along the zeros of `noise`: 1 in their middle, 0 beyond their `width`."""
    values: Array = np.exp(-((noise / width) ** 2))
    return values


def islands(noise: Array) -> Array:
    """Soft-edged islands where `noise` is high: 1 inside, 0 outside."""
    values: Array = np.clip(1.6 * noise - 0.2, 0, 1)
    return values


def blend(picture: Array, colour: Array, share: Array) -> Array:
    """Mix `colour` into `picture` by `share` (height, width), from 0 to 1."""
    return picture + share * (colour - picture)


def individual_look(label: str, rng: np.random.Generator) -> Look:
    """The look of one lesion of class `label`: its class's, individually varied.

    Each lesion also resembles one of the other classes to some degree, one in 30 or so more than
    its own: as in the clinic, the picture alone does not always tell.
    """
    own = np.array(LOOKS[label])
    other = np.array(LOOKS[rng.choice([name for name in CLASSES if name != label])])
    mixed = own + rng.beta(1.0, 5.0) * (other - own)
    return Look(*(mixed * rng.uniform(0.5, 1.3, mixed.size)).clip(0, 1).tolist())


def paint_skin(canvas: Canvas) -> Array:
    """Bare skin, (3, height, width): a tone, mottled, with its fine furrows."""
    tone = FAIR_SKIN + canvas.rng.beta(1.2, 2.5) * (TAN_SKIN - FAIR_SKIN)
    melanin = 0.045 * cords(canvas.noise(40), 0.4)
    blood = 0.03 * canvas.noise(3) + 0.03 * canvas.noise(16)
    skin: Array = tone * np.exp(-melanin * MELANIN - blood * BLOOD)
    return skin


class Lesion:
    """Where a lesion lies on a canvas, and the random fields that its signs share."""

    def __init__(self, canvas: Canvas, look: Look) -> None:
        self.canvas = canvas
        self.look = look
        rng = canvas.rng
        radius, flattening = rng.uniform(0.2, 0.37), rng.uniform(0.72, 1.0)
        turn = rng.uniform(0, 2 * math.pi)
        along = radius * np.array([math.cos(turn), math.sin(turn)])
        across = radius * flattening * np.array([-math.sin(turn), math.cos(turn)])
        self.centre = rng.uniform(-0.1, 0.1, 2)
        self.axes = np.stack([along, across])

        # The lesion's own coordinates: its outline runs about 1 from the origin.
        x, y = canvas.x - self.centre[0].item(), canvas.y - self.centre[1].item()
        (xu, xv), (yu, yv) = np.linalg.inv(self.axes).tolist()
        ragged = 0.02 + 0.09 * look.notches
        self.u = xu * x + yu * y + ragged * canvas.noise(9)
        v = xv * x + yv * y + ragged * canvas.noise(9)
        self.depth = outline(rng, look, np.arctan2(v, self.u)) - np.hypot(self.u, v)

        # Colours share two patchworks, one at either end, so that they lie side by side.
        self.dark_to_white = canvas.noise(4)
        self.red_to_blue = canvas.noise(4)
        self.relief = canvas.noise(11)
        # The border of an asymmetric lesion fades here and ends abruptly there.
        fading = (0.025 + 0.13 * (1 - look.demarcation) ** 2) * np.exp(
            0.5 * look.asymmetry * self.red_to_blue
        )
        self.inside = sigmoid(self.depth / fading)
        self.well_inside = np.clip(3.5 * self.depth, 0, 1)

    def dots(self, number: float, smallest: float, largest: float, shift: float = 0.0) -> Array:
        """About `number` dots of the given radii, off centre by up to `shift` lesion radii."""
        rng = self.canvas.rng
        n = rng.poisson(number)
        distance, angle = 0.9 * np.sqrt(rng.random(n)), rng.uniform(0, 2 * math.pi, n)
        local = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
        local += shift * rng.uniform(-1, 1, 2)
        return self.canvas.discs(self.centre + local @ self.axes, rng.uniform(smallest, largest, n))

    def density(self) -> Array:
        """The density of its melanin, 0 outside the lesion."""
        look, rng = self.look, self.canvas.rng
        density: Array = rng.uniform(0.6, 1.5) * (
            1
            + rng.uniform(-0.15, 0.35) * self.depth
            + 0.4 * look.asymmetry * self.u
            + 0.4 * look.unevenness * self.dark_to_white
            + 0.08 * self.relief
        )
        mesh = honeycomb(self.canvas, look.asymmetry)
        density += 0.55 * look.network * mesh * self.well_inside
        density += 1.4 * look.unevenness * look.asymmetry * islands(self.dark_to_white)
        density += 0.35 * look.demarcation * look.fissures * cords(self.depth - 0.06, 0.05)
        density += 1.0 * look.fissures * cords(self.relief, 0.25)
        density += 0.9 * self.dots(70 * look.globules, 0.004, 0.011, 0.4 * look.asymmetry)
        # Even a lesion's palest part has some pigment.
        density = self.inside * np.maximum(density, 0.08)
        return density


def paint_lesion(lesion: Lesion, skin: Array) -> Array:
    """The lesion upon `skin`, (3, height, width)."""
    look, inside, well_inside = lesion.look, lesion.inside, lesion.well_inside
    melanin = MELANIN + look.yellowness * (KERATIN - MELANIN)
    blood = look.redness * inside * (0.1 + 0.8 * islands(lesion.red_to_blue))
    picture: Array = skin * np.exp(-lesion.density() * melanin - blood * BLOOD)
    veil = look.veil * well_inside * islands(-lesion.red_to_blue)
    picture = blend(picture, BLUE_GREY, 0.75 * veil)
    scar = look.regression * well_inside * islands(-lesion.dark_to_white)
    picture = blend(picture, SCAR_WHITE, 0.8 * scar)

    # A waxy surface glistens on the slopes that face the light.
    slope = lesion.canvas.unit * sum(np.gradient(lesion.relief))
    picture += 0.0018 * look.fissures * inside * slope
    openings = lesion.dots(14 * look.openings, 0.008, 0.02)
    picture = blend(picture, PLUG_BROWN, 0.75 * inside * openings)
    cysts = lesion.dots(26 * look.cysts, 0.006, 0.014)
    return blend(picture, HORN_YELLOW, 0.75 * inside * cysts)


def outline(rng: np.random.Generator, look: Look, angle: Array) -> Array:
    """The lesion's radius in each direction `angle` (radians, any shape), about 1."""
    directions = np.linspace(-math.pi, math.pi, 721)

    def ripple(waves: npt.NDArray[np.integer], sizes: Array) -> Array:
        phases = rng.uniform(0, 2 * math.pi, waves.size)
        sizes = sizes * rng.normal(0, 1, waves.size)
        ripples: Array = (sizes * np.cos(np.outer(directions, waves) + phases)).sum(axis=1)
        return ripples

    waves = np.arange(2, 5)
    radius = 1 + ripple(waves, (0.02 + 0.15 * look.asymmetry) / waves)
    waves = np.arange(5, 17)
    radius += ripple(waves, (0.004 + 0.05 * look.notches) / np.sqrt(waves))
    # Streaks: spikes over a sector of the border, never all around.
    waves = np.arange(18, 36)
    sector = np.clip(np.cos(directions - rng.uniform(0, 2 * math.pi)) + 0.2, 0, 1)
    radius += look.streaks * sector * np.abs(ripple(waves, 0.17 / np.sqrt(waves)))
    return np.interp(angle, directions, radius).astype(np.float32)


def honeycomb(canvas: Canvas, disorder: float) -> Array:
    """The mesh of a pigment network, 1 on its cords and 0 in its holes."""
    pitch = canvas.rng.uniform(0.032, 0.048)
    warp = pitch * (0.4 + 0.6 * disorder)
    x = canvas.x + warp * canvas.noise(8)
    y = canvas.y + warp * canvas.noise(8)
    turn = canvas.rng.uniform(0, math.pi)
    # Three plane waves, 60 degrees apart, add up to a hexagonal lattice of peaks: the holes.
    ways = turn + np.radians([0, 60, 120])
    peaks = sum(
        np.cos((math.cos(way) * x + math.sin(way) * y) * (2 * math.pi / pitch)) for way in ways
    )
    distinctness: Array = np.clip(0.6 + 0.4 * canvas.noise(5), 0, 1)
    return distinctness * sigmoid(-2.5 * np.asarray(peaks))


def add_hairs(canvas: Canvas, picture: Array) -> Array:
    """A few dark, bent hairs across the picture."""
    rng = canvas.rng
    t = np.linspace(0, 1, 24)[:, None]
    comb = rng.uniform(0, 2 * math.pi)
    hairs = []
    for _ in range(rng.integers(2, 15)):
        way = comb + rng.normal(0, 0.5)
        step = rng.uniform(0.3, 1.0) * np.array([math.cos(way), math.sin(way)])
        middle = rng.uniform(-1, 1, 2) * canvas.half
        bend = rng.normal(0, 0.12, 2)
        hairs.append(middle + (t - 0.5) * step + 4 * t * (1 - t) * bend)
    widths = rng.uniform(0.004, 0.011, len(hairs)).tolist()
    return blend(picture, HAIR, rng.uniform(0.6, 0.9) * canvas.lines(hairs, widths))


def add_bubbles(canvas: Canvas, picture: Array) -> Array:
    """Air bubbles in the immersion fluid: bright rings with a glint."""
    rng = canvas.rng
    centres = rng.uniform(-1, 1, (rng.integers(2, 9), 2)) * canvas.half
    radii = rng.uniform(0.012, 0.05, len(centres))
    rings = canvas.discs(centres, radii) - canvas.discs(centres, radii - 0.006)
    glints = canvas.discs(centres - 0.4 * radii[:, None], 0.2 * radii)
    return picture + 0.16 * rings + 0.4 * glints


def add_ruler(canvas: Canvas, picture: Array) -> Array:
    """The millimetre scale that some dermatoscopes show along the lower edge."""
    spacing = canvas.rng.uniform(0.05, 0.08)
    bottom = canvas.half[1] - 0.02
    lines, widths = [], []
    for tick, x in enumerate(np.arange(-canvas.half[0], canvas.half[0], spacing)):
        length = 0.07 if tick % 5 == 0 else 0.04
        lines.append(np.array([[x, bottom], [x, bottom - length]]))
        widths.append(0.005)
    return picture * (1 - 0.8 * canvas.lines(lines, widths))


def add_light(canvas: Canvas, picture: Array) -> Array:
    """Uneven light that falls off to the edges, a camera's exposure and white balance."""
    rng = canvas.rng
    way, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.16)
    gradient = strength * (math.cos(way) * canvas.x + math.sin(way) * canvas.y)
    fall_off = rng.uniform(0.05, 0.3) * (canvas.x**2 + canvas.y**2)
    balance = rng.uniform(0.9, 1.06) * channels(*rng.normal(1, 0.025, 3))
    return picture * (1 + gradient - fall_off) * balance


def add_vignette(canvas: Canvas, picture: Array) -> Array:
    """The dark surround of a dermatoscope's round field of view."""
    rng = canvas.rng
    x, y = rng.normal(0, 0.02, 2).tolist()
    beyond = np.hypot(canvas.x - x, canvas.y - y) - rng.uniform(0.56, 0.72)
    return picture * (1 - 0.96 * sigmoid(beyond / rng.uniform(0.004, 0.02)))


def draw_picture(label: str, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """One picture of a lesion of class `label`, RGB of `size` (width, height) in pixels."""
    canvas = Canvas(rng, size)
    picture = paint_lesion(Lesion(canvas, individual_look(label, rng)), paint_skin(canvas))
    for add, probability in (
        (add_hairs, 0.4),
        (add_bubbles, 0.12),
        (add_ruler, 0.1),
        (add_light, 1.0),
        (add_vignette, 0.3),
    ):
        if rng.random() < probability:
            picture = add(canvas, picture)
    picture += rng.uniform(0.006, 0.02) * rng.standard_normal(picture.shape[1:], dtype=np.float32)
    pixels = np.clip(255 * picture, 0, 255).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(channel) for channel in pixels])
    focus = ImageFilter.BoxBlur(rng.uniform(0.2, 1.0) * canvas.unit / 216)
    return image.filter(focus)
