"""bears.photos: whatever comes in, an upright RGB picture or a sentence comes out."""

import io
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ROOT, draw_bear, encode, run_python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from bears import containers, photos
from bears.classifier import Classifier
from bears.photos import HEIC, PhotoError, open_photo, remarks

CLASSIFIER = Classifier.load(ROOT / "export.pkl")
FORMATS = ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "BMP", "TIFF"]


def quarters(width=64, height=48) -> Image.Image:
    """Four colours, so that each way to turn the picture looks different."""
    pixels = np.empty((height, width, 3), np.uint8)
    top, left = slice(height // 2), slice(width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    pixels[top, left], pixels[top, right] = (200, 30, 30), (30, 180, 30)
    pixels[bottom, left], pixels[bottom, right] = (30, 30, 200), (210, 210, 40)
    return Image.fromarray(pixels)


def assert_looks_like(picture: Image.Image, expected: Image.Image, tolerance=6):
    """Same size, and the same colours but for what lossy compression does to them."""
    assert picture.mode == "RGB"
    assert picture.size == expected.size
    difference = np.asarray(picture, float) - np.asarray(expected, float)
    assert np.abs(difference).mean() < tolerance


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# How a camera held that way stores the upright picture, after the Exif standard (CIPA DC-008, tag 0x0112): where row 0
# and column 0 of the stored pixels lie in the upright one.
STORED = {
    1: lambda p: p,  # row 0 at the top, column 0 at the left
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.transpose(1, 0, 2),  # left, top
    6: lambda p: p[:, ::-1].transpose(1, 0, 2),  # right, top
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda p: p[::-1].transpose(1, 0, 2),  # left, bottom
}


@pytest.mark.parametrize("format", FORMATS)
def test_reads_the_formats_that_cameras_and_browsers_write(format):
    assert_looks_like(open_photo(encode(quarters(), format)), quarters())


@pytest.mark.parametrize("name", ["bear.txt", "bear.jpg", "bear"])
def test_the_content_decides_not_the_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(quarters(), "WEBP", lossless=True))
    assert_looks_like(open_photo(path), quarters(), tolerance=1)


def test_bytes_path_and_picture_give_the_same_pixels(tmp_path):
    content = encode(draw_bear(700), "JPEG")
    path = tmp_path / "bear.jpg"
    path.write_bytes(content)
    expected = open_photo(content).tobytes()
    with Image.open(path) as picture:
        for source in (bytearray(content), memoryview(content), path, str(path), picture):
            assert open_photo(source).tobytes() == expected


def test_a_picture_passed_in_is_left_as_it_was():
    picture = Image.open(io.BytesIO(encode(quarters(2000, 1500), "JPEG", exif=exif(6))))
    assert open_photo(picture).size != picture.size
    assert picture.size == (2000, 1500)
    assert picture.getexif()[0x0112] == 6


@pytest.mark.skipif(not HEIC, reason="needs pillow-heif")
def test_of_a_heic_only_the_photo_is_read(monkeypatch):
    """Thumbnails, depth and other pictures in it would be more that a stranger's bytes can reach."""
    import pillow_heif

    content = encode(draw_bear(256), "HEIF", thumbnails=[64])
    assert Image.open(io.BytesIO(content)).info["thumbnails"] == []
    assert not pillow_heif.options.DEPTH_IMAGES and not pillow_heif.options.AUX_IMAGES
    monkeypatch.setattr(pillow_heif.options, "THUMBNAILS", True)
    assert Image.open(io.BytesIO(content)).info["thumbnails"] == [64], "there is one in this file"


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "AVIF", "HEIF"])
def test_a_turned_photo_is_set_upright(format, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(quarters()))))
    assert_looks_like(open_photo(encode(stored, format, exif=exif(orientation))), quarters())


def test_a_webp_and_what_only_xmp_turns_stay_as_they_are():
    """As in Chromium; test_one_answer.py compares."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    webp = encode(quarters(), "WEBP", lossless=True, exif=exif(6))
    for content in (webp, encode(quarters(), "JPEG", xmp=xmp), encode(quarters(), "WEBP", xmp=xmp)):
        assert_looks_like(open_photo(content), quarters())
        assert photos.orientation(content) == 1
    assert_looks_like(open_photo(Image.open(io.BytesIO(webp))), quarters())


def test_a_turned_photo_is_set_upright_when_it_is_reduced_and_transparent():
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](np.asarray(quarters(1600, 1200))))).convert("RGBA")
    assert_looks_like(open_photo(encode(stored, "PNG", exif=exif(6))), quarters(800, 600))


@pytest.mark.parametrize("tags", [exif(0), exif(9), exif(1)[:-9], b"Exif\0\0nonsense"])
def test_broken_exif_leaves_the_picture_as_it_is(tags):
    assert_looks_like(open_photo(encode(quarters(), "JPEG", exif=tags)), quarters())


@pytest.mark.parametrize("mode, format", [("L", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")])
def test_every_colour_mode_becomes_rgb(mode, format):
    image = quarters().convert(mode)
    assert_looks_like(open_photo(encode(image, format)), image.convert("RGB"), tolerance=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_turn_white(mode):
    image = quarters().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 48))
    picture = open_photo(encode(image.convert(mode), "PNG"))
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    assert picture.getpixel((60, 40)) != (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_a_pixel_keep_their_shades(format):
    ramp = np.linspace(0, 2**16 - 1, 64 * 48).reshape(48, 64)
    picture = open_photo(encode(Image.fromarray(ramp.astype(np.uint16)), format))
    assert np.abs(np.asarray(picture)[..., 0] - ramp / 257).max() <= 1


def test_floating_point_shades_span_black_to_white():
    ramp = np.linspace(-1, 3, 64 * 48, dtype=np.float32).reshape(48, 64)
    picture = np.asarray(open_photo(encode(Image.fromarray(ramp), "TIFF")))
    assert (picture.min(), picture.max()) == (0, 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_counts_and_it_says_so(format):
    black = Image.new("RGB", (64, 48), "black")
    picture = open_photo(encode(quarters(), format, save_all=True, append_images=[black]))
    assert_looks_like(picture, quarters())
    assert picture.info == {"animated": True}
    assert open_photo(encode(quarters(), format)).info == {}


def test_a_phones_photo_with_a_second_picture_in_it_is_no_animation():
    """Depth and brightness maps come as MPO, which is JPEG after JPEG."""
    content = encode(quarters(), "MPO", save_all=True, append_images=[quarters(32, 24)])
    picture = open_photo(content)
    assert_looks_like(picture, quarters())
    assert picture.info == {}


def test_an_animation_whose_second_frame_is_broken_is_shown(monkeypatch):
    def broken(*_):
        raise SyntaxError("not a GIF frame")

    content = encode(quarters(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "black")])
    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.is_animated", property(broken))
    assert_looks_like(open_photo(content), quarters())


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(4000, 3000), (1500, 9000)])
def test_a_large_photo_comes_back_smaller_but_large_enough(format, size):
    picture = open_photo(encode(quarters(*size), format))
    assert photos.SIDE <= min(picture.size) < 2 * photos.SIDE
    assert_looks_like(picture, quarters(*size).resize(picture.size))


def test_a_large_jpeg_is_never_decoded_at_full_size(monkeypatch):
    content = encode(quarters(6000, 4000), "JPEG")
    loaded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda image: (loaded.append(image.size), load(image))[1])
    open_photo(content)
    assert loaded and all(min(size) < 2 * photos.SIDE for size in loaded)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG; its first one, IHDR, ends at byte 33."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be that large and has almost nothing in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 5_001), (10_000, 9_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(size):
    with pytest.raises(PhotoError, match="more than (50|100) million pixels"):
        open_photo(png_header(*size))


def test_a_jpeg_may_be_larger_because_it_is_decoded_at_a_fraction_of_its_size():
    assert min(open_photo(encode(Image.new("L", (10_000, 9_900)), "JPEG")).size) >= photos.SIDE
    with pytest.raises(PhotoError, match="more than 100 million pixels"):
        open_photo(encode(Image.new("L", (10_000, 10_100)), "JPEG"))


PEAK = """
import resource
from bears.photos import open_photo
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_photo({path!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize(
    "format, options", [("WEBP", {"method": 0}), ("JPEG", {"progressive": True}), ("AVIF", {"speed": 10})]
)
def test_the_largest_photo_of_a_format_stays_within_the_stated_memory(tmp_path, format, options):
    side = 10_000 if format == "JPEG" else 7_000
    (tmp_path / "large").write_bytes(encode(quarters(side, side), format, **options))
    script = PEAK.format(path=str(tmp_path / "large"))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 1_000_000, "kilobytes"


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize("kind", ["profile", "gamma", "floats"])
def test_colours_and_floats_stay_within_the_stated_memory(tmp_path, kind):
    wide = Image.new("RGB", (20_400, 1_023), "#8a5a2b")  # as large as a picture can be that is not made smaller first
    png = encode(wide, "PNG", icc_profile=PROFILE if kind == "profile" else None)
    if kind == "gamma":
        png = png[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + png[33:]
    if kind == "floats":
        png = encode(Image.new("F", (7_000, 7_000), 0.5), "TIFF", compression="tiff_adobe_deflate")
    (tmp_path / "large").write_bytes(png)
    run = subprocess.run(
        [sys.executable, "-c", PEAK.format(path=str(tmp_path / "large"))], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 1_000_000, "kilobytes"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_which_a_quarter_is_there_is_refused(format):
    content = encode(draw_bear(), format)
    with pytest.raises(PhotoError, match="damaged or incomplete|not a picture"):
        open_photo(content[: len(content) // 4])


# Damaged, and yet to be seen


def lines(size=(400, 300)) -> Image.Image:
    """Grain, so that a file's bytes are spread evenly over its rows."""
    return Image.fromarray(np.random.default_rng(0).integers(60, 200, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize("cut", [2, 13, 20])
def test_a_jpeg_without_its_last_bytes_is_answered_without_a_word(cut):
    content = encode(draw_bear(), "JPEG")
    picture = open_photo(content[:-cut])
    assert_looks_like(picture, draw_bear())
    assert picture.info == {}


@pytest.mark.parametrize("format, options", [("JPEG", {}), ("PNG", {}), ("GIF", {"interlace": 0}), ("BMP", {})])
def test_of_a_file_that_was_cut_off_the_rows_that_are_there_are_shown(format, options):
    content = encode(lines(), format, **options)
    picture, whole = open_photo(content[: len(content) * 6 // 10]), open_photo(content)
    assert 160 <= picture.height <= 200
    if format == "BMP":  # begins with its last row
        picture, whole = (image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for image in (picture, whole))
    there = picture.height - 16  # the last row of blocks may be a guess
    assert_looks_like(picture.crop((0, 0, 400, there)), whole.crop((0, 0, 400, there)), tolerance=1)
    side = "upper" if format == "BMP" else "lower"
    found = open_photo(content[: len(content) * 6 // 10])
    assert remarks(found) == [f"This file is incomplete: its {side} third is missing."]


@pytest.mark.parametrize("format, options", [("JPEG", {"progressive": True}), ("GIF", {"interlace": 1})])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_a_progressive_jpeg_and_an_interlaced_gif_that_were_cut_off_all_is_there(format, options, mode):
    bear = draw_bear().convert(mode)
    content = encode(bear, format, **options)
    picture = open_photo(content[: len(content) * 6 // 10])
    assert_looks_like(picture, bear.convert("RGB"), tolerance=10)
    assert picture.info == {"incomplete": "its finer details are missing"}


def test_a_progressive_jpeg_that_ends_between_two_scans_is_incomplete():
    content = encode(draw_bear(), "JPEG", progressive=True)
    assert open_photo(content[: content.rfind(b"\xff\xda")]).info == {"incomplete": "its finer details are missing"}


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_a_progressive_jpeg_without_its_last_bytes_nothing_is_missing(mode):
    content = encode(draw_bear().convert(mode), "JPEG", progressive=True)
    assert all(open_photo(content[:-lost]).info == {} for lost in (2, 13, 20))


@pytest.mark.parametrize("orientation, side", [(1, "lower"), (3, "upper"), (6, "left"), (8, "right")])
def test_what_is_missing_is_named_as_one_sees_it(orientation, side):
    content = encode(lines(), "JPEG", exif=exif(orientation))
    picture = open_photo(content[: len(content) * 3 // 4])
    assert picture.info == {"incomplete": f"its {side} quarter is missing"}


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"gAMA"])
def test_a_png_with_a_wrong_checksum_where_no_pixels_are_is_answered(kind):
    png = encode(quarters(), "PNG")
    odd = struct.pack(">I", 4) + kind + b"a\0bc" + b"????"
    assert_looks_like(open_photo(png[:33] + odd + png[33:]), quarters(), tolerance=1)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_what_is_packed_in_a_png_beside_its_pixels_is_not_unpacked(kind):
    packed = zlib.compress(bytes(200 * 2**20), 9)
    head = {b"zTXt": b"a\0\0", b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    png = encode(quarters(), "PNG")
    png = png[:33] + chunk(kind, head + packed) + png[33:]
    tracemalloc.start()
    picture = open_photo(png)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert_looks_like(picture, quarters(), tolerance=1)
    assert peak < 8 * 2**20


# Colours, brightness and orientation; test_one_answer.py compares them with Chromium's


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_sensors_bits_in_sixteen_are_as_bright_as_eight(format, bits):
    grey = np.asarray(draw_bear().convert("L"), np.uint16)
    picture = open_photo(encode(Image.fromarray(grey << (bits - 8)), format))
    assert np.abs(np.asarray(picture)[..., 0].astype(int) - grey).max() <= 2


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf, -9999, -3.4e38, 1e20])
def test_floating_point_shades_span_the_range_of_what_is_there(nothing):
    ramp = np.linspace(10, 11, 64 * 48, dtype=np.float32).reshape(48, 64)
    ramp[:8, :8] = nothing
    picture = np.asarray(open_photo(encode(Image.fromarray(ramp), "TIFF")))[..., 0]
    assert 100 < picture[8:].mean() < 155
    assert (picture[8:].min(), picture[8:].max()) == (picture[8:, 0].min(), 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_that_is_none_is_ignored(format):
    for profile in (b"nonsense", bytes(5 * 2**20), b"\0" * 128):
        assert_looks_like(open_photo(encode(quarters(), format, icc_profile=profile)), quarters())


@pytest.mark.parametrize("primaries", [[0] * 8, [1] * 8, [31270, 0, 68000, 0, 26500, 0, 15000, 0], [2**31 - 1] * 8])
def test_primaries_that_make_no_triangle_are_ignored(primaries):
    png = encode(quarters(), "PNG")
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    odd = png[:33] + gamma + chunk(b"cHRM", struct.pack(">8I", *primaries)) + png[33:]
    assert_looks_like(open_photo(odd), quarters(), tolerance=1)


# Cameras' RAW, and TIFF of several pages


def tiff(*directories: dict[int, tuple[int, list[int]]], order="<", inside=(), files=()) -> bytes:
    """A TIFF of these pages, {tag: (type, values)}. Values of "file 0" are replaced by where that file lies.

    `inside` are directories that the first page points to, with the tag SubIFDs.
    """
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    body, at = b"", []
    for file in files:
        at.append(8 + len(body))
        body += file + bytes(len(file) % 2)
    every = [*directories, *inside]
    places, place = [], 8 + len(body)
    for directory in every:
        places.append(place)
        place += 2 + 12 * (len(directory) + (directory is directories[0] and bool(inside))) + 4
    for number, directory in enumerate(every):
        tags = dict(directory)
        if number == 0 and inside:
            tags[0x014A] = (4, [places[len(directories)]])
        body += struct.pack(order + "H", len(tags))
        for tag, (type, (value,)) in sorted(tags.items()):
            value = at[value[1]] if isinstance(value, tuple) else value
            packed = struct.pack(order + ("H2x" if type == 3 else "I"), value)
            body += struct.pack(order + "HHI", tag, type, 1) + packed
        body += struct.pack(order + "I", places[number + 1] if number + 1 < len(directories) else 0)
    return mark + struct.pack(order + "I", places[0]) + body


def preview(file: bytes, number=0) -> dict:
    return {0x0103: (3, [6]), 0x0201: (4, [("file", number)]), 0x0202: (4, [len(file)])}


SENSOR = {0x0106: (3, [32803]), 0x0100: (4, [64]), 0x0101: (4, [48]), 0x0103: (3, [7])}


@pytest.mark.parametrize("order", ["<", ">"])
def test_of_a_cameras_raw_the_largest_preview_is_shown_and_it_says_so(order):
    small, large = encode(quarters(160, 120), "JPEG"), encode(quarters(800, 600), "JPEG")
    first = preview(small) | {0x0112: (3, [1])}
    raw = tiff(first, preview(large, 1), order=order, inside=[SENSOR], files=[small, large])
    picture = open_photo(raw)
    assert_looks_like(picture, quarters(800, 600))
    assert remarks(picture) == ["This is the preview that the camera put into its RAW file."]


def test_a_raws_preview_is_turned_as_the_camera_was():
    turned = Image.fromarray(np.ascontiguousarray(STORED[6](np.asarray(quarters(800, 600)))))
    file = encode(turned, "JPEG")
    picture = open_photo(tiff({0x0112: (3, [6])} | preview(file), inside=[SENSOR], files=[file]))
    assert_looks_like(picture, quarters(800, 600))


def test_a_raw_with_nothing_but_a_thumbnail_is_refused_with_advice():
    small = encode(quarters(160, 120), "JPEG")
    for raw in (
        tiff(preview(small), inside=[SENSOR], files=[small]),
        tiff(SENSOR),
        b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(100),
        b"FUJIFILMCCD-RAW 0201" + bytes(100),
    ):
        with pytest.raises(PhotoError, match="RAW file.*export it as a JPEG"):
            open_photo(raw)


def test_of_a_tiff_of_several_pages_the_first_counts_and_it_says_so():
    pages = encode(quarters(), "TIFF", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    picture = open_photo(pages)
    assert_looks_like(picture, quarters())
    assert remarks(picture) == ["Of its several pages the first one counts."]
    assert open_photo(encode(quarters(), "TIFF")).info == {}


def test_of_a_tiff_of_endless_directories_little_is_read(monkeypatch):
    """64 that overlap, with 65,535 entries each, of 16 numbers each: half a minute, if all were read."""
    body = bytearray(struct.pack("<4sI", b"II*\0", 8) + struct.pack("<HHII", 0x0100, 4, 16, 8) * 70_000)
    for number in range(64):
        place = 8 + 14 * number
        struct.pack_into("<H", body, place, 65_535)
        struct.pack_into("<I", body, place + 2 + 12 * 65_535, place + 14)
    reads, read = [], containers.Tiff._number
    monkeypatch.setattr(containers.Tiff, "_number", lambda *given: reads.append(1) or read(*given))
    containers.Tiff(bytes(body))
    assert 64 < len(reads) < 400_000


# What it takes


def test_arrays_tensors_and_open_files_are_taken(tmp_path):
    pixels = np.asarray(draw_bear())
    path = tmp_path / "bear.png"
    draw_bear().save(path)
    expected = open_photo(path).tobytes()
    with open(path, "rb") as file:
        assert open_photo(file).tobytes() == expected
    for source in (io.BytesIO(path.read_bytes()), pixels, torch.tensor(pixels)):
        assert open_photo(source).tobytes() == expected


@pytest.mark.parametrize("source", [
    None, 3, [1, 2], io.StringIO("text"), np.zeros((48, 64, 3)), np.zeros((3, 48, 64), np.uint8), np.zeros(9, np.uint8)
], ids=["nothing", "number", "numbers", "text file", "floats", "channels first", "flat"])  # fmt: skip
def test_anything_else_is_a_type_error_that_says_what_is_taken(source):
    with pytest.raises(TypeError, match="bytes of a file, a path.*shape \\(height, width, 3\\), and not"):
        open_photo(source)


NOT_PICTURES = {
    "text": b"This is not a bear.\n" * 50,
    "zip": b"PK\x03\x04" + bytes(200),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle r="9"/></svg>',
    "html": b"<!doctype html><title>404</title>",
    "jpeg-signature-only": b"\xff\xd8\xff\xe0",
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("content", NOT_PICTURES.values(), ids=NOT_PICTURES)
def test_what_is_not_a_picture_is_refused_and_the_formats_are_named(content):
    with pytest.raises(PhotoError, match="not a picture I can read.*JPEG"):
        open_photo(content)


def test_postscript_never_reaches_ghostscript():
    with pytest.raises(PhotoError, match="not a picture"):
        open_photo(encode(quarters(), "EPS"))


@pytest.mark.parametrize("content, sentence", [
    (b"", "empty"),
    (b"\xff\xd8" + bytes(photos.MAX_BYTES), "larger than 64 MB"),
    (encode(quarters(8, 300), "PNG"), "only 8 × 300 pixels"),
    (encode(quarters(1000, 48), "PNG"), "more than 20 times as long as wide"),
    (encode(quarters(48, 1_000_000), "PNG"), "more than 20 times as long as wide"),
], ids=["empty", "large", "tiny", "strip", "endless"])  # fmt: skip
def test_an_empty_a_huge_a_tiny_and_a_narrow_file_are_refused(content, sentence):
    with pytest.raises(PhotoError, match=sentence):
        open_photo(content)


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(PhotoError, match=f"{path} cannot be read"):
            open_photo(path)


def test_a_crash_inside_a_decoder_becomes_a_sentence(monkeypatch):
    def crash(*args):
        raise struct.error("unpack requires a buffer of 4 bytes")

    content = encode(quarters(), "PNG")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_read", crash)
    with pytest.raises(PhotoError, match="damaged or incomplete"):
        open_photo(content)


def test_the_files_people_really_have(real_photos):
    for path in sorted((real_photos / "originals").iterdir()):
        picture = open_photo(path)
        assert picture.mode == "RGB"
        with Image.open(path) as original:
            assert min(picture.size) >= min(photos.SIDE, *original.size)


# What nobody thought of


def mutations(content: bytes, first: int = 0, last: int | None = None) -> st.SearchStrategy[bytes]:
    """`content` with some of its bytes changed, left out, repeated or cut off, between the two."""
    last = len(content) - 1 if last is None else last
    place = st.integers(first, last)
    # most decoders decide by the first bytes, so every other change is there
    place = st.one_of(place, st.integers(first, min(first + 200, last)))
    changes = st.lists(st.tuples(place, st.integers(0, 255)), max_size=8)
    cuts = st.lists(st.tuples(place, st.integers(-40, 40)), max_size=2)

    def mutated(changes, cuts, end):
        damaged = bytearray(content)
        for index, byte in changes:
            damaged[index] = byte
        for index, length in cuts:
            part = damaged[index : index + abs(length)]
            damaged[index : index + abs(length)] = part * 2 if length > 0 else b""
        return bytes(damaged[:end])

    return st.builds(mutated, changes, cuts, st.one_of(st.none(), place))


SEEDS = {
    format: encode(draw_bear(96), format, **options)
    for format, options in {
        "JPEG": {"exif": exif(6)},
        "PNG": {"exif": exif(6)},
        "WEBP": {"exif": exif(6), "save_all": True, "append_images": [draw_bear(96).rotate(9)]},
        "HEIF": {"exif": exif(6)},
        "AVIF": {"exif": exif(6)},
        "GIF": {"save_all": True, "append_images": [draw_bear(96).rotate(9)]},
        "BMP": {},
        "TIFF": {"compression": "tiff_lzw"},
    }.items()
}
SEEDS |= {
    "JPEG with a profile": encode(draw_bear(96), "JPEG", icc_profile=PROFILE, progressive=True),
    "PNG with a profile": encode(draw_bear(96), "PNG", icc_profile=PROFILE),
    "PNG with a gamma": SEEDS["PNG"][:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + SEEDS["PNG"][33:],
    "PNG of 16 bits": encode(Image.fromarray(np.asarray(draw_bear(96).convert("L"), np.uint16) * 16), "PNG"),
    "TIFF of floats": encode(draw_bear(96).convert("F"), "TIFF"),
    "RAW": tiff({0x0112: (3, [6])} | preview(SEEDS["JPEG"]), inside=[SENSOR], files=[SEEDS["JPEG"]]),
}
PIXELS = {"JPEG": b"\xff\xda", "PNG": b"IDAT", "WEBP": b"ANMF", "AVIF": b"mdat", "HEIF": b"mdat", "GIF": b"\x21\xf9"}
APART = {name: SEEDS[name].index(PIXELS[name.split()[0]]) for name in SEEDS if name.split()[0] in PIXELS}


@pytest.mark.parametrize("format", SEEDS)
@given(data=st.data())
def test_a_damaged_file_gives_an_answer_or_a_sentence(format, data):
    content = data.draw(mutations(SEEDS[format]))
    try:
        answer = CLASSIFIER.classify(content)
    except PhotoError as error:
        assert str(error).endswith(".")
    else:
        assert answer.label in CLASSIFIER.vocab and 0 <= answer.probability <= 1


@pytest.mark.parametrize("part", ["metadata", "pixels"])
@pytest.mark.parametrize("name", APART)
@given(data=st.data())
def test_damage_to_the_metadata_or_the_pixels_alone_gives_a_picture_or_a_sentence(name, part, data):
    """Either of them whole, decoders come further."""
    content, border = SEEDS[name], APART[name]
    content = data.draw(mutations(content, 0, border) if part == "metadata" else mutations(content, border))
    try:
        picture = open_photo(content)
    except PhotoError as error:
        assert str(error).endswith(".")
    else:
        assert picture.mode == "RGB" and all(remark.endswith(".") for remark in remarks(picture))


WITHOUT_HEIC = """
import sys
sys.modules["pillow_heif"] = None  # an import of it fails
from bears.photos import PhotoError, open_photo
for path in {paths!r}:
    try:
        print(open_photo(path).mode)
    except PhotoError as error:
        print(error)
"""


def test_without_the_extra_heic_all_else_is_read_and_a_heic_gets_a_sentence(tmp_path):
    contents = {"HEIF": encode(draw_bear(200), "HEIF"), "AVIF": encode(draw_bear(200), "AVIF"), "text": b"no photo"}
    paths = []
    for name, content in contents.items():
        paths.append(str(tmp_path / name))
        (tmp_path / name).write_bytes(content)
    heic, avif, text = run_python(WITHOUT_HEIC.format(paths=paths)).splitlines()
    assert heic == "HEIC photos cannot be read here. Please choose this one as a JPEG."
    assert avif == "RGB"
    assert text.endswith("Please choose a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF photo.")


def test_photos_that_are_opened_in_threads_leave_warnings_as_they_are():
    content = encode(draw_bear(200), "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_photo, [content] * 200))
    assert warnings.filters == before
