"""The colours that a file means, as sRGB: what browsers show. And grey of more than eight bits."""

import io

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.createProfile("sRGB")
LARGEST_PROFILE = 4 * 2**20  # bytes; those of printing presses have up to three million
# By their numbers in ITU-T H.273: x and y of white, red, green and blue; and to which power a value is the light that
# it means, as Chromium has it. Those for HDR are not here: their light is more than a page can show.
D65, C = (0.3127, 0.3290), (0.310, 0.316)
PRIMARIES = {
    1: (*D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # BT.709, sRGB
    4: (*C, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),  # BT.470 M
    5: (*D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),  # BT.470 BG
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # BT.601
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),  # SMPTE 240 M
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI P3
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
POWERS = {1: 2.4, 4: 2.2, 5: 2.8, 6: 2.4, 8: 1.0, 14: 2.4, 15: 2.4}
SRGB_TRANSFER = 13
BLOCK = 256  # rows at once: 50 million floats are enough memory by themselves
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_srgb(image: Image.Image, info: dict) -> Image.Image:
    """`image` (RGB, RGBA, L or CMYK) in RGB or RGBA, by the profile in `info`, or by what a PNG says of its colours.

    A profile that is broken or meant for other pixels is ignored. Of several statements in a PNG the same one counts as
    in Chromium: cICP, iCCP, sRGB, and then gAMA, with cHRM if that is there, too. `info["cicp"]` begins with the
    numbers of primaries and transfer.
    """
    cicp, gamma, chromaticity = info.get("cicp"), info.get("gamma"), info.get("chromaticity")
    shades = np.linspace(0, 1, 256)
    if cicp and image.mode in ("RGB", "RGBA"):
        primaries, transfer = cicp[0], cicp[1]
        if primaries not in PRIMARIES or transfer not in (*POWERS, SRGB_TRANSFER):
            return image
        linear = _linear(shades) if transfer == SRGB_TRANSFER else shades ** POWERS[transfer]
        return _by_primaries(image, linear, PRIMARIES[primaries])
    if profile := info.get("icc_profile"):
        return _by_profile(image, profile)
    if "srgb" in info or image.mode not in ("RGB", "RGBA") or not gamma or not 0.1 <= gamma <= 10:
        return image
    if chromaticity is None and abs(gamma - 1 / 2.2) < 0.01:
        return image
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            return _by_primaries(image, shades ** (1 / gamma), chromaticity or PRIMARIES[1])
    except (ArithmeticError, np.linalg.LinAlgError):  # primaries that make no triangle
        return image


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    if len(profile) > LARGEST_PROFILE:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if space != {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB"):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.applyTransform(image, ImageCms.buildTransform(source, SRGB, image.mode, mode))
    except Exception:  # a profile is as hostile as any file; without it the colours are those of most files
        return image


def _by_primaries(image: Image.Image, linear: np.ndarray, chromaticity: tuple[float, ...]) -> Image.Image:
    """`linear`: (256,) the light, 0 to 1, that each value stands for."""
    pixels = np.asarray(image)
    matrix = np.linalg.inv(_to_xyz(PRIMARIES[1])) @ _to_xyz(chromaticity)
    linear, matrix, shown = np.float32(linear), np.float32(matrix).T, pixels.copy()
    for row in range(0, len(pixels), BLOCK):
        light = linear[pixels[row : row + BLOCK, :, :3]] @ matrix
        shown[row : row + BLOCK, :, :3] = np.round(255 * _encoded(light.clip(0, 1)))
    return Image.fromarray(shown)


def _to_xyz(chromaticity: tuple[float, ...]) -> np.ndarray:
    """(3, 3): from light in these primaries to XYZ, seen in the white of D65."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(chromaticity[:8], (4, 2)))
    matrix = np.stack(primaries, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    there, here = BRADFORD @ white, BRADFORD @ np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    return np.linalg.inv(BRADFORD) @ np.diag(here / there) @ BRADFORD @ matrix


def _linear(value: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1"""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


BITS = (8, 10, 12, 14, 16)  # of sensors, whose values are often kept in 16 as they are
SAMPLE = 1_000_000  # pixels, to find a range in


def eight_bits(image: Image.Image, nodata: float | None = None, white_is_zero: bool = False) -> Image.Image:
    """Grey of 16 bits, of 32 bits or in floating point as L.

    16 bits are scaled by the bits that are used. For the others no format says where black and white lie: they are the
    ends of what is there, without what is no number, `nodata`, and a value far from all others, which means the same.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        top = int(values[values != nodata].max(initial=0))
        low, high = 0, 2 ** next(bits for bits in BITS if top < 2**bits) - 1
    else:
        low, high = _range(values, nodata)
    levels = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), BLOCK):
        block = np.nan_to_num(values[row : row + BLOCK].astype(np.float64), nan=low, posinf=high, neginf=low)
        levels[row : row + BLOCK] = np.round((block.clip(low, high) - low) * (255 / max(high - low, 1e-300)))
    return Image.fromarray(255 - levels if white_is_zero else levels)


def _range(values: np.ndarray, nodata: float | None) -> tuple[float, float]:
    step = max(1, int((values.size / SAMPLE) ** 0.5))
    sample = values[::step, ::step].astype(np.float64).ravel()
    found = np.unique(sample[np.isfinite(sample) & (sample != nodata)])
    while len(found) > 3 and found[1] - found[0] > found[-1] - found[1]:
        found = found[1:]
    while len(found) > 3 and found[-1] - found[-2] > found[-2] - found[0]:
        found = found[:-1]
    return (found[0], found[-1]) if len(found) else (0, 1)
