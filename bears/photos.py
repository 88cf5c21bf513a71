"""Bytes of unknown origin in, an upright RGB picture out.

Everything a visitor uploads and everything the training notebook reads passes through `open_photo`, so that both see
the same pixels. The file's content decides its format; its name is never looked at.
"""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

# iPhones' HEIC, the one decoder that Pillow lacks, is an extra, `heic`: its binaries are under other licences than all
# else (see the README). What else may be in such a file is not looked at: the less of a stranger's bytes is parsed, the
# better.
try:
    import pillow_heif

    pillow_heif.libheif_version()  # fails where libheif itself is missing, which the import does not
except ImportError:
    HEIC = False
else:
    HEIC = True
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

# Pillow's remarks on odd metadata are of no use to a visitor. Once for all: catching them around each photo is not for
# threads, and left a process without any warnings.
warnings.filterwarnings("ignore", module=r"PIL\.")

# What phones, cameras, scanners and browsers write. A short list, because every further decoder is more code that a
# stranger's bytes can reach (Pillow's EPS plugin starts Ghostscript). Those that Pillow does not load by itself are
# imported above: to find one it would import all forty that it has, which takes half a second.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", *(["HEIF"] if HEIC else []))
READABLE = f"a JPEG, PNG, WebP, {'HEIC, ' if HEIC else ''}AVIF, GIF, BMP or TIFF"
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # in bytes 8 to 12 of a HEIC

MAX_BYTES = 64 * 2**20  # voila.json lets larger uploads arrive, so that they are refused here with a sentence
# So that no photo takes more than 1 GB. JPEG (MPO is several in one file) is decoded at a fraction of its size,
# everything else at its full size first, for which WebP's decoder needs 16 bytes a pixel.
MAX_PIXELS = 50_000_000
MAX_PIXELS_JPEG = 100_000_000
MIN_SIDE = 16  # pixels; below that there is nothing to see
MAX_RATIO = 20  # of the longer side to the shorter; a panorama has 10
SIDE = 512  # pixels; twice what a classifier of 224 pixels looks at, and the most that one should


class PhotoError(Exception):
    """Why a photo cannot be used: one sentence or two, written for the person who chose it."""


def open_photo(source: bytes | memoryview | str | os.PathLike | Image.Image, side: int = SIDE) -> Image.Image:
    """Open a photo as an upright RGB picture; transparent parts turn white, of an animation the first frame counts.

    `source` is the content of a file, the path of one, or a Pillow image, which is left as it is. A picture much
    larger than needed comes back at an integer fraction of its size, its shorter side at least `side` pixels: JPEG is
    decoded at that scale, everything else averaged down to it. If there was more than one frame, its `info` has
    "animated".

    Raises `PhotoError` for whatever is not a usable picture, and nothing else.
    """
    stream = None
    try:
        if isinstance(source, Image.Image):
            return _upright_rgb(source.copy(), side)
        stream = _stream(source)
        with Image.open(stream, formats=FORMATS) as image:
            _check_pixels(image.width * image.height, image.format)
            animated = _is_animated(image)
            image.draft("RGB", (side, side))  # only the JPEG decoder listens; Pillow picks 1, 1/2, 1/4 or 1/8
            picture = _upright_rgb(image, side)
            picture.info = {"animated": True} if animated else {}
            return picture
    except PhotoError:
        raise
    except Image.DecompressionBombError:  # twice as many as Pillow warns of, and too many for any format
        _check_pixels(2 * Image.MAX_IMAGE_PIXELS, "JPEG")
    except UnidentifiedImageError:
        if not HEIC and stream and _is_heic(stream):
            raise PhotoError("HEIC photos cannot be read here. Please choose this one as a JPEG.") from None
        raise PhotoError(f"This file is not a picture I can read. Please choose {READABLE} photo.") from None
    except Exception as error:  # a decoder fed hostile bytes may raise anything: struct.error, SyntaxError, MemoryError
        raise PhotoError("This picture is damaged or incomplete. Please choose another copy of it.") from error


def _stream(source) -> io.BytesIO:
    """The content of `source` in memory, once it is known to be neither empty nor too large."""
    if isinstance(source, (str, os.PathLike)):
        try:
            size = os.stat(source).st_size
            content = Path(source).read_bytes() if size <= MAX_BYTES else None
        except OSError as error:
            raise PhotoError(f"{source} cannot be read: {error.strerror}.") from error
    else:
        content, size = source, len(source)
    check_size(size)
    return io.BytesIO(content)


def _is_heic(stream: io.BytesIO) -> bool:
    head = stream.getvalue()[:12]
    return head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS


def remarks(picture: Image.Image) -> list[str]:
    """What a visitor should know of a picture that `open_photo` returned."""
    return ["Moving; only its first picture counts."] if picture.info.get("animated") else []


def check_size(size: int) -> None:
    """Raises `PhotoError` where `open_photo` would because of the size of the file, in bytes."""
    if size == 0:
        raise PhotoError("This file is empty. Please choose a photo.")
    if size > MAX_BYTES:
        raise PhotoError(f"This file is larger than {MAX_BYTES // 2**20} MB. Please choose a smaller photo.")


def _check_pixels(count: int, format: str) -> None:
    limit = MAX_PIXELS_JPEG if format in ("JPEG", "MPO") else MAX_PIXELS
    if count > limit:
        raise PhotoError(f"This picture has more than {limit // 10**6} million pixels. Please choose a smaller one.")


def _is_animated(image: Image.Image) -> bool:
    try:
        return image.format in ("GIF", "WEBP", "PNG", "AVIF") and image.is_animated
    except Exception:  # what is broken is the second frame, which nobody needs
        return False


def _upright_rgb(image: Image.Image, side: int) -> Image.Image:
    """`image`, which is changed on the way, as `open_photo` returns it."""
    if min(image.size) < MIN_SIDE:
        raise PhotoError(f"This picture is only {image.width} × {image.height} pixels. Please choose a larger one.")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise PhotoError(f"This picture is more than {MAX_RATIO} times as long as wide. Please choose another one.")
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # the pixels are there, only the metadata is broken: show them as they are
        pass
    if image.mode.startswith("I;16"):  # Pillow's own `convert` would clip 16 and 32 bits to white
        image = Image.fromarray(np.uint8(np.asarray(image) >> 8))
    if image.mode not in ("I", "F"):
        image = _converted(image, "RGBA" if image.has_transparency_data else "RGB")
    factor = min(image.size) // side
    if factor > 1:
        image = image.reduce(factor)  # before the copies that are still to come
    if image.mode in ("I", "F"):  # no format says where their black and white lie
        levels = np.asarray(image, float) - image.getextrema()[0]
        image = Image.fromarray(np.uint8(levels * (255 / max(levels.max(), 1e-9))))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _converted(image, "RGB")


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)
