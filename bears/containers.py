"""What holds a picture, read by its own structure: a PNG's chunks, an AVIF's boxes, a TIFF's directories."""

import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
# Of the chunks that may be left out those that decide about the pixels, their colours and which side is up, or tell of
# an animation. Texts are not kept, so they are never unpacked, and neither is a profile that is too large for one.
KEPT = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
MOST_CHUNKS = 100_000
LARGEST_PROFILE = 2**20  # bytes, unpacked; Pillow takes no more


def plain_png(content: bytes) -> tuple[bytes, bytes]:
    """A PNG with nothing in it but what is needed, and an end; and the content of cICP, of which Pillow knows nothing.

    As Chromium does, it leaves out what is damaged, if it can be left out.
    """
    kept, cicp, position = [PNG], b"", len(PNG)
    for _ in range(MOST_CHUNKS):
        head = content[position : position + 8]
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        data = content[position + 8 : position + 8 + length]
        crc = zlib.crc32(kind + data)
        whole = content[position + 8 + length : position + 12 + length] == struct.pack(">I", crc)
        position += 12 + length
        if kind == b"IEND":
            break
        optional = kind[0] & 0x20
        if optional and (kind not in KEPT or not whole or (kind == b"iCCP" and not _is_small(data))):
            continue
        if kind == b"cICP":
            cicp = data
            continue
        kept.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc))
    kept.append(struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND")))
    return b"".join(kept), cicp


def _is_small(profile: bytes) -> bool:
    try:
        unpacked = zlib.decompressobj().decompress(profile.partition(b"\0")[2][1:], LARGEST_PROFILE + 1)
    except zlib.error:
        return False
    return len(unpacked) <= LARGEST_PROFILE


def is_coarse(content: bytes) -> bool:
    """Whether a progressive JPEG ends before its last scan, the one with the lowest bits of brightness (ITU-T T.81).

    Within a scan, 0xFF comes before nothing but 0x00 and the marks of restarts.
    """
    (first, *_), (last, end, bit) = (_scan(content, find(b"\xff\xda")) for find in (content.find, content.rfind))
    return (last, end, bit) != (first, 63, 0)


def _scan(content: bytes, start: int) -> tuple[int, int, int]:
    """Of a scan the first component, the last of the 64 coefficients, and the lowest bit."""
    head = content[start + 4 : start + 16].ljust(12, b"\0")
    end = 2 + 2 * min(head[0], 4)
    return head[1], head[end], head[end + 1] & 0x0F


MOST_BOXES = 1000
CAMERAS = (1, 6, 14, 15)  # transfers of cameras for video, for which Chromium takes that of sRGB in an AVIF


def nclx(content: bytes) -> bytes:
    """What an AVIF or HEIC without a profile says of its colours, as a PNG's cICP would: ISO 23008-12, 14496-12."""
    boxes = _boxes(content, 0, len(content))
    for path in ((b"meta", 12), (b"iprp", 8), (b"ipco", 8)):  # and how long their heads are
        kind, head = path
        start, end = next(((start, end) for name, start, end in boxes if name == kind), (0, 0))
        boxes = _boxes(content, start + head, end)
    for name, start, _ in boxes:
        if name == b"colr" and content[start + 8 : start + 12] == b"nclx" and len(content) >= start + 16:
            primaries, transfer = struct.unpack_from(">HH", content, start + 12)
            transfer = 13 if transfer in CAMERAS else transfer
            return bytes([primaries, transfer]) if max(primaries, transfer) < 256 else b""
    return b""


def _boxes(content: bytes, place: int, end: int):
    """Name, start and end of each box between two places."""
    for _ in range(MOST_BOXES):
        if place + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", content, place)
        yield name, place, min(place + size, end)
        if size < 8:  # 0: to the end of the file; 1: longer than 4 GB
            return
        place += size


# Cameras' RAW, as far as it is not TIFF: Canon's CR3, Fujifilm's, Olympus's, Panasonic's and Sigma's
RAW = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")
MOST_DIRECTORIES = 64  # in a file
MOST_TAGS, MOST_VALUES = 200, 16  # in a directory, and of a tag; a hostile one has 65,535, and millions
# TIFF 6.0, TIFF/EP and DNG 1.7: the tags that are looked at, and values of theirs
SUBFILE, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION, STRIP_BYTES = 0x00FE, 0x0103, 0x0106, 0x0111, 0x0112, 0x0117
SUB_DIRECTORIES, JPEG, JPEG_BYTES, DNG_VERSION = 0x014A, 0x0201, 0x0202, 0xC612
SENSOR = (32803, 34892)  # what comes from a sensor: its colours are still to be computed
SIZES = {1: 1, 3: 2, 4: 4, 13: 4}  # bytes of the types that these tags have


class Tiff:
    """The directories of a TIFF, each a dict from tags to lists of numbers."""

    def __init__(self, content: bytes):
        self._content = content
        self._order = "<" if content[:2] == b"II" else ">"
        self.pages, self.inside = [], []  # one after the other; within others
        self._seen = set()
        place = self._number(4, 4)
        while place and (directory := self._read(place)):
            self.pages.append(directory[0])
            place = directory[1]
        for page in list(self.pages):
            for place in page.get(SUB_DIRECTORIES, []):
                if directory := self._read(place):
                    self.inside.append(directory[0])

    def _number(self, place: int, size: int) -> int:
        data = self._content[place : place + size]
        return int.from_bytes(data, "little" if self._order == "<" else "big") if len(data) == size else 0

    def _read(self, place: int) -> tuple[dict[int, list[int]], int] | None:
        if place in self._seen or len(self._seen) >= MOST_DIRECTORIES:
            return None
        self._seen.add(place)
        count, tags = self._number(place, 2), {}
        for entry in range(place + 2, place + 2 + 12 * min(count, MOST_TAGS), 12):
            size, values = SIZES.get(self._number(entry + 2, 2), 0), self._number(entry + 4, 4)
            if not size or not 0 < values <= MOST_VALUES:
                continue
            start = entry + 8 if size * values <= 4 else self._number(entry + 8, 4)
            tags[self._number(entry, 2)] = [self._number(start + size * number, size) for number in range(values)]
        return tags, self._number(place + 2 + 12 * count, 4)

    @property
    def is_raw(self) -> bool:
        """A camera's: DNG, NEF, CR2, ARW and their like."""
        every = self.pages + self.inside
        return (
            self._content[8:10] == b"CR"
            or any(DNG_VERSION in tags or tags.get(PHOTOMETRIC, [0])[0] in SENSOR for tags in every if tags)
            or bool(self.inside and self.pages[0].get(SUBFILE, [0])[:1] == [1])
        )

    @property
    def several(self) -> bool:
        """More pages than one; smaller copies of a page, and masks, are none."""
        return sum(tags.get(SUBFILE, [0])[:1] not in ([1], [4], [5]) for tags in self.pages) > 1

    @property
    def orientation(self) -> int:
        return (self.pages[0].get(ORIENTATION) or [1])[0] if self.pages else 1

    def previews(self) -> list[bytes]:
        """What may be a JPEG in it, the largest first."""
        found = []
        for tags in self.pages + self.inside:
            place, size = tags.get(JPEG), tags.get(JPEG_BYTES)
            if not (place and size) and tags.get(COMPRESSION, [0])[:1] in ([6], [7]):
                place, size = tags.get(STRIPS), tags.get(STRIP_BYTES)
            if place and size and len(place) == len(size) == 1:
                found.append(self._content[place[0] : place[0] + size[0]])
        return sorted((preview for preview in found if preview[:2] == b"\xff\xd8"), key=len, reverse=True)


def is_raw(content: bytes) -> bool:
    """RAW that is not TIFF."""
    return content.startswith(RAW) or content[4:12] == b"ftypcrx "
