"""Bytes of unknown origin in, an upright RGB picture out.

Everything a visitor uploads and everything the training notebook reads passes through `open_photo`, so that both see
the same pixels. The file's content decides its format; its name is never looked at.
"""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from bears import containers
from bears.colours import eight_bits, to_srgb

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
MIN_PREVIEW = 256  # pixels; below that a RAW file's preview is a thumbnail for a list
SIDE = 512  # pixels; twice what a classifier of 224 pixels looks at, and the most that one should

DAMAGED = "This picture is damaged or incomplete. Please choose another copy of it."
NO_RAW = (
    "This is a camera's RAW file, with no large preview in it. Please export it as a JPEG, on your computer or in the "
    "camera, and choose that."
)
SOURCES = (
    "A photo is the bytes of a file, a path, a file opened for reading bytes, a Pillow image, or an array of uint8 of "
    "shape (height, width, 3)"
)


class PhotoError(Exception):
    """Why a photo cannot be used: one sentence or two, written for the person who chose it."""


def open_photo(source, side: int = SIDE) -> Image.Image:
    """Open a photo as an upright RGB picture; transparent parts turn white, of an animation the first frame counts.

    `source` is the content of a file, the path of one, a file opened for reading bytes, a Pillow image, which is left
    as it is, or an array of uint8, shape (height, width, 3), of NumPy or torch. A picture much larger than needed comes
    back at an integer fraction of its size, its shorter side at least `side` pixels: JPEG is decoded at that scale,
    everything else averaged down to it. Colours are those of the file's profile, in sRGB. Of an incomplete file what is
    there comes back, if it is half of it. The picture's `info` has what should be known of it: see `remarks`.

    Raises `PhotoError` for whatever is not a usable picture, `TypeError` for what is none of these sources, and nothing
    else.
    """
    stream = None
    try:
        if (picture := _in_memory(source)) is not None:
            return _upright_rgb(picture, side)
        stream = _stream(source)
        return _decoded(stream.getvalue(), side)
    except (PhotoError, TypeError) as error:
        if isinstance(error, PhotoError) or stream is None:
            raise
        raise PhotoError(DAMAGED) from error  # a decoder's
    except Image.DecompressionBombError:  # twice as many as Pillow warns of, and too many for any format
        _check_pixels(2 * Image.MAX_IMAGE_PIXELS, "JPEG")
    except UnidentifiedImageError:
        if stream and containers.is_raw(stream.getvalue()):
            raise PhotoError(NO_RAW) from None
        if not HEIC and stream and _is_heic(stream):
            raise PhotoError("HEIC photos cannot be read here. Please choose this one as a JPEG.") from None
        raise PhotoError(f"This file is not a picture I can read. Please choose {READABLE} photo.") from None
    except Exception as error:  # a decoder fed hostile bytes may raise anything: struct.error, SyntaxError, MemoryError
        raise PhotoError(DAMAGED) from error


def _in_memory(source) -> Image.Image | None:
    """The picture that `source` is already; None for a file."""
    if isinstance(source, Image.Image):
        picture = source.copy()
        if source.format == "WEBP":  # see `_orientation`; a copy does not know its format
            picture.info.pop("exif", None)
        return picture
    if isinstance(source, (bytes, bytearray, memoryview, str, os.PathLike)) or hasattr(source, "read"):
        return None
    try:
        array = np.asarray(source) if hasattr(source, "__array__") else None
    except Exception:  # a tensor on a GPU
        array = None
    if array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        given = f"an array of {array.dtype}, {array.shape}" if array is not None else type(source).__name__
        raise TypeError(f"{SOURCES}, and not {given}.")
    if not array.size:
        raise PhotoError("This picture has no pixels.")
    return Image.fromarray(np.ascontiguousarray(array))


def _decoded(content: bytes, side: int) -> Image.Image:
    known, tiff = {}, None  # facts for `info`
    if content.startswith(containers.PNG):
        content, known["cicp"] = containers.plain_png(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        tiff = containers.Tiff(content)
        if tiff.is_raw:
            return _preview(tiff, side)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_pixels(image.width * image.height, image.format)
        facts = {"animated": True} if _is_animated(image) else {}
        if tiff and tiff.several:
            facts["pages"] = True
        if image.format in ("AVIF", "HEIF") and "icc_profile" not in image.info:
            known["cicp"] = containers.nclx(content)
        image.info.update(known)
        image.draft("RGB", (side, side))  # only the JPEG decoder listens; Pillow picks 1, 1/2, 1/4 or 1/8
        _check_sides(image)
        missing = 0  # rows
        try:
            image.load()
        except OSError:
            image, missing = _rest(image, content, side)
        return _upright_rgb(image, side, missing, facts)


def _rest(image: Image.Image, content: bytes, side: int) -> tuple[Image.Image, int]:
    """What there is of an incomplete file, and how many rows are missing at its end; if < 0, at its beginning."""
    if image.format in ("JPEG", "MPO"):
        # Where the file has an end, libjpeg shows all that it has: of a progressive one a coarse picture, else the rows
        # that are there, and below them the grey of no light and no colour.
        image = _ended(content, side)
        if image.info.get("progressive"):
            # Anything else than the end would go on in the last scan, and change the rows that are not complete in it
            going_on = np.asarray(_ended(content + len(content) * b"\x55", side))
            rows = (going_on != np.asarray(image)).reshape(image.height, -1).any(axis=1)
            image.info["coarse"] = containers.is_coarse(content) or bool(20 * rows.sum() > image.height)
        written = np.asarray(image).reshape(image.height, image.width, -1).max(2) != 128
    elif image.format in ("PNG", "GIF", "BMP") and image.im is not None:
        interlaced = image.info.get("interlace") or (image.format == "GIF" and image.tile[0].args[1])
        image.tile = []  # or it would be tried again
        # RGB has a fourth byte in memory, which the decoders set; in other modes black counts as not written
        rgbx = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8) if image.mode == "RGB" else np.asarray(image)
        written = rgbx.reshape(image.height, image.width, -1)[..., -1] != 0
        if interlaced:
            return _coarse(image, written), 0
    else:
        raise PhotoError(DAMAGED)
    there = np.flatnonzero(written.any(axis=1))
    if not len(there):
        raise PhotoError(DAMAGED)
    above, below = int(there[0]), image.height - 1 - int(there[-1])
    missing = -above if image.format == "BMP" else below  # which begins with its last row
    if 2 * abs(missing) > image.height:
        raise PhotoError(
            "This picture is damaged or incomplete: less than half of it is there. Please choose another copy of it."
        )
    return image, missing


def _ended(content: bytes, side: int) -> Image.Image:
    """A JPEG that was cut off, with an end."""
    image = Image.open(io.BytesIO(content + b"\xff\xd9"), formats=("JPEG",))
    image.draft("RGB", (side, side))
    image.load()
    return image


def _coarse(image: Image.Image, written: np.ndarray) -> Image.Image:
    """An interlaced picture, if at least every second row of it, and of a PNG every second column, is there."""
    for step in (1, 2):
        across = step if image.format == "PNG" else 1
        kept = written[::step, ::across]
        if (kept if across > 1 else kept.any(axis=1)).all():
            pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))[::step, ::across]
            pixels = pixels.repeat(step, axis=0).repeat(across, axis=1)[: image.height, : image.width]
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            picture.info = {name: value for name, value in image.info.items() if name != "transparency"}
            picture.info["coarse"] = step > 1
            return picture
    raise PhotoError(DAMAGED)


def _preview(tiff: containers.Tiff, side: int) -> Image.Image:
    """The largest picture that a camera put into its RAW file; what the sensor saw is not developed here."""
    for content in tiff.previews():
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                _check_pixels(image.width * image.height, image.format)
                if min(image.size) >= MIN_PREVIEW:
                    image.draft("RGB", (side, side))
                    image.load()
                    if _orientation(image) == 1 and tiff.orientation in TURNED:
                        image = image.transpose(TURNED[tiff.orientation])
                    return _upright_rgb(image, side, facts={"preview": True})
        except Exception:  # lossless JPEG, which is the sensor's; or none
            continue
    raise PhotoError(NO_RAW)


def _stream(source) -> io.BytesIO:
    """The content of `source` in memory, once it is known to be neither empty nor too large."""
    if isinstance(source, (str, os.PathLike)):
        try:
            status = os.stat(source)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):  # a folder; or a pipe, which may never end
                raise PhotoError(f"{source} cannot be read: it is a folder or a pipe.")
            content = Path(source).read_bytes() if size <= MAX_BYTES else None
        except OSError as error:
            raise PhotoError(f"{source} cannot be read: {error.strerror}.") from error
    elif hasattr(source, "read"):
        content = source.read(MAX_BYTES + 1)
        if not isinstance(content, bytes):
            raise TypeError(f"{SOURCES}, and not a file that gives {type(content).__name__}.")
        size = len(content)
    else:
        content, size = source, memoryview(source).nbytes
    check_size(size)
    return io.BytesIO(content)


def _is_heic(stream: io.BytesIO) -> bool:
    head = stream.getvalue()[:12]
    return head[4:8] == b"ftyp" and head[8:] in HEIC_BRANDS


def remarks(picture: Image.Image) -> list[str]:
    """What a visitor should know of a picture that `open_photo` returned."""
    said = {
        "incomplete": "This file is incomplete: {}.",
        "animated": "Moving; only its first picture counts.",
        "pages": "Of its several pages the first one counts.",
        "preview": "This is the preview that the camera put into its RAW file.",
        "transparent": "All of it is transparent; it is shown as if it were not.",
    }
    return [sentence.format(picture.info[fact]) for fact, sentence in said.items() if picture.info.get(fact)]


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


def _check_sides(image: Image.Image) -> None:
    if min(image.size) < MIN_SIDE:
        raise PhotoError(f"This picture is only {image.width} × {image.height} pixels. Please choose a larger one.")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise PhotoError(f"This picture is more than {MAX_RATIO} times as long as wide. Please choose another one.")


# What to do to a picture of that orientation (CIPA DC-008, tag 0x0112)
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LAST_ROW = {3: "upper", 4: "upper", 5: "right", 6: "left", 7: "left", 8: "right"}  # where it is then; else it is lower
FIRST_ROW = {3: "lower", 4: "lower", 5: "left", 6: "right", 7: "right", 8: "left"}


def orientation(content: bytes) -> int:
    """1 to 8, by which `open_photo` turns the content of a file upright; 1 is upright already."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """As Chromium decides: by Exif, which it does not read in a WebP, and not by XMP or a text, as Pillow would."""
    if image.format == "WEBP":
        return 1
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(name, None)
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # the pixels are there, only the metadata is broken: show them as they are
        return 1
    return found if found in TURNED else 1


def _missing(share: float, side: str) -> str:
    if share < 0.15:
        return f"a strip at its {side} edge is missing"
    part = min({"quarter": 1 / 4, "third": 1 / 3, "half": 1 / 2}.items(), key=lambda item: abs(item[1] - share))[0]
    return f"its {side} {part} is missing"


def _upright_rgb(image: Image.Image, side: int, missing: int = 0, facts: dict | None = None) -> Image.Image:
    """`image`, which is changed on the way, as `open_photo` returns it; without the rows that are missing."""
    _check_sides(image)
    image.load()
    facts, info, turned = dict(facts or {}), image.info, _orientation(image)
    if info.get("coarse"):
        facts["incomplete"] = "its finer details are missing"
    if missing:
        lost = LAST_ROW.get(turned, "lower") if missing > 0 else FIRST_ROW.get(turned, "upper")
        facts["incomplete"] = _missing(abs(missing) / image.height, lost)
    factor = min(image.size) // side
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # Pillow's own `convert` would clip them to white
        tags = getattr(image, "tag_v2", {})
        image = eight_bits(image, _nodata(tags), tags.get(0x0106) == 0)
    elif image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
    elif image.mode in ("L", "RGB") and image.has_transparency_data:
        image = image.convert("RGBA")
    if missing:
        image = image.crop((0, max(0, -missing), image.width, image.height - max(0, missing)))
    if factor > 1:
        image = image.reduce(factor)  # before the copies that are still to come
    if turned in TURNED:
        image = image.transpose(TURNED[turned])
    image = to_srgb(image, info)
    if image.mode == "RGBA":
        if image.getextrema()[3] == (0, 0):  # a BMP whose fourth byte means nothing, or nothing to see at all
            facts["transparent"] = True
            image = image.convert("RGB")
        else:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    image.info = facts
    return image


def _nodata(tags) -> float | None:
    try:
        return float(tags[42113])  # GDAL_NODATA, a text
    except (KeyError, TypeError, ValueError):
        return None
