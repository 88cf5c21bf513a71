"""One photo, one answer: what a browser made smaller and what Python made smaller are the same picture.

The browser shows what the owner of a photo sees, so this is also the reference for its colours and orientation.
"""

import base64
import struct
import zlib

import numpy as np
import pytest
from conftest import ROOT, draw_bear, encode
from PIL import Image

from bears.photos import open_photo


def grainy(size=(700, 1100)) -> Image.Image:
    """So that every format has more than 300 kB of it, below which a browser sends photos as they are."""
    bear = np.asarray(draw_bear().resize(size), np.int16)
    grain = np.random.default_rng(0).integers(-24, 25, (*bear.shape[:2], 1))
    bear = bear + grain
    bear[: size[1] // 4, :, 2] += 60  # which side is up can be told, and saturated colours are there
    return Image.fromarray(np.uint8(bear.clip(0, 255)))


def icc(primaries, gamma) -> bytes:
    """A profile of three primaries, in the XYZ of D50, and one curve: ICC.1:2001-04."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz((0.9642, 1, 0.8249))}
    tags |= {name: xyz(values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    place, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content
    head = struct.pack(">I4sI4s4s4s", place + len(data), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(number, (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


# The primaries as their profiles have them, adapted to D50
PROFILES = {
    "none": None,
    "Display P3": icc([(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)], 2.2),
    "Adobe RGB": icc([(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)], 2.2),
    "ProPhoto": icc([(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)], 1.8),
    "linear": icc([(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)], 1.0),
    "broken": b"no profile" * 20,
}


# Primaries and transfer by their numbers in ITU-T H.273; nobody has the last ones
CODED = [(1, 1), (4, 4), (5, 5), (6, 6), (7, 8), (9, 13), (9, 14), (11, 13), (12, 13), (12, 15), (3, 3)]


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    png = encode(grainy(), "PNG")
    made = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return png[:33] + b"".join(made) + png[33:]


def photos():
    for format in ("JPEG", "PNG", "WEBP", "AVIF"):
        options = {"quality": 100} if format == "AVIF" else {"lossless": True} if format == "WEBP" else {"quality": 95}
        for name, profile in PROFILES.items():
            yield f"{format}, {name}", encode(grainy(), format, icc_profile=profile, **options)
        for orientation in range(2, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            yield f"{format}, turned {orientation}", encode(grainy(), format, exif=exif.tobytes(), **options)
    yield "JPEG, grey", encode(grainy((1400, 2200)).convert("L"), "JPEG", quality=95)
    yield "JPEG, CMYK", encode(grainy().convert("CMYK"), "JPEG", quality=95)
    yield "BMP", encode(grainy(), "BMP")
    yield "PNG, 12 of 16 bits", encode(Image.fromarray(np.asarray(grainy().convert("L"), np.uint16) * 16), "PNG")
    transparent = grainy()
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    yield "PNG, transparent", encode(transparent, "PNG")
    gamma, p3 = struct.pack(">I", 45455), struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    yield "PNG, gAMA 1", png_with((b"gAMA", struct.pack(">I", 100_000)))
    yield "PNG, gAMA", png_with((b"gAMA", gamma))
    yield "PNG, gAMA and cHRM", png_with((b"gAMA", gamma), (b"cHRM", p3))
    yield "PNG, cHRM", png_with((b"cHRM", p3))
    yield "PNG, sRGB over gAMA", png_with((b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000)))
    avif = encode(grainy(), "AVIF", quality=100)
    nclx = avif.index(b"colrnclx") + 8
    for primaries, transfer in CODED:
        yield f"PNG, cICP {primaries} {transfer}", png_with((b"cICP", bytes([primaries, transfer, 0, 1])))
        said = struct.pack(">HH", primaries, transfer)
        yield f"AVIF, nclx {primaries} {transfer}", avif[:nclx] + said + avif[nclx + 4 :]
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for format in ("JPEG", "WEBP"):
        yield f"{format}, turned in XMP", encode(grainy(), format, xmp=xmp, quality=100)


@pytest.fixture(scope="module")
def smaller(browser):
    """What uploads.js makes of a photo: smaller(content)"""
    page = browser.new_page()
    page.route("http://bears.test/", lambda route: route.fulfill(body="<title>empty</title>", content_type="text/html"))
    script = (ROOT / "bears" / "serving" / "uploads.js").read_text()
    page.route("http://bears.test/uploads.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    page.goto("http://bears.test/")

    def smaller(content: bytes) -> bytes:
        made = page.evaluate(
            """async (content) => {
                const { smaller } = await import("/uploads.js");
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                const made = new Uint8Array(await (await smaller(new File([bytes], "photo"), 512)).arrayBuffer());
                let text = "";
                for (let at = 0; at < made.length; at += 9999)
                    text += String.fromCharCode(...made.subarray(at, at + 9999));
                return btoa(text);
            }""",
            base64.b64encode(content).decode(),
        )
        return base64.b64decode(made)

    yield smaller
    page.close()


def difference(*pictures: Image.Image) -> float:
    """On average, of 255."""
    ours, theirs = (np.asarray(picture.resize((176, 176), Image.Resampling.BOX), float) for picture in pictures)
    return np.abs(ours - theirs).mean()


def test_the_browsers_copy_and_pythons_are_the_same_picture(smaller):
    different, as_they_are = {}, []
    for name, content in photos():
        assert len(content) > 300_000, name
        sent = smaller(content)
        if sent == content:
            as_they_are.append(name)
            continue
        ours, theirs = open_photo(content), open_photo(sent)
        assert ours.width / ours.height == pytest.approx(theirs.width / theirs.height, rel=0.01), name
        different[name] = difference(ours, theirs)
    print(sorted(different.items(), key=lambda i: -i[1])[:30], len(different))
    assert max(different.values()) < 3, max(different, key=different.get)
    assert as_they_are == ["AVIF, broken", "PNG, 12 of 16 bits"], "of which Python alone makes a picture"


@pytest.mark.parametrize("format, options", [
    ("JPEG", {"comment": b"avis ANIM acTL", "quality": 95}),
    ("WEBP", {"xmp": b"ANIM avis acTL", "quality": 100}),
    ("PNG", {}),
])  # fmt: skip
def test_words_in_a_photo_do_not_make_it_an_animation(smaller, format, options):
    content = encode(grainy(), format, **options) if options else png_with((b"tEXt", b"Comment\0acTL ANIM avis"))
    assert len(smaller(content)) < len(content) / 2


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "AVIF"])
def test_an_animation_is_sent_as_it_is(smaller, format):
    options = {} if format == "GIF" else {"quality": 95}
    moving = encode(grainy(), format, save_all=True, append_images=[grainy().rotate(180)], **options)
    assert len(moving) > 300_000 and smaller(moving) == moving


def test_a_bmp_whose_fourth_byte_means_nothing_is_not_sent_blank(smaller):
    """Some versions of Chromium show it all white, others as if it were opaque."""
    content = bytearray(encode(grainy().convert("RGBA"), "BMP"))
    size = struct.pack("<I", 108)  # a header of version 4, with masks, alpha among them
    masks = struct.pack("<4I", 0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    pixels = np.frombuffer(content[54:], np.uint8).reshape(-1, 4).copy()
    pixels[:, 3] = 0
    header = content[18:54]
    header[12:16] = struct.pack("<I", 3)  # BITFIELDS
    whole = size + bytes(header) + masks
    whole = whole.ljust(108, b"\0") + pixels.tobytes()
    content = b"BM" + struct.pack("<IHHI", 14 + len(whole), 0, 0, 122) + whole
    picture, sent = open_photo(content), smaller(content)
    assert picture.info == {"transparent": True}
    assert np.asarray(picture).std() > 20
    assert sent == content or difference(picture, open_photo(sent)) < 3
