"""Pictures that no one took: everything the tests need is drawn, so the suite runs anywhere.

Two environment variables make it stricter where more is at hand:
BEARS_TEST_PHOTOS   a folder with real photos in bears/black, bears/grizzly, bears/teddy and originals
BEARS_TEST_BROWSER  "required" turns the browser tests from skipped to failed where there is no Chromium
"""

import io
import os
import pickletools
import random
import sys
import zipfile
from pathlib import Path

import bears.torchvision_ops  # noqa: F401  before any test module imports fastai or timm

# isort: split
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent


def encode(image: Image.Image, format: str, **options) -> bytes:
    """The content of a file of that format."""
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def draw_bear(size: int = 480, fur: str = "#8a5a2b") -> Image.Image:
    """A teddy bear's head on a meadow."""
    image = Image.new("RGB", (size, size), "#bfe3f2")
    draw = ImageDraw.Draw(image)

    def disc(x, y, radius, colour):
        draw.ellipse([(c * size) for c in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    draw.rectangle((0, size * 0.7, size, size), fill="#8fbf6a")
    for x in (0.28, 0.72):
        disc(x, 0.24, 0.13, fur)
        disc(x, 0.24, 0.07, "#d9b382")
    disc(0.5, 0.5, 0.34, fur)
    disc(0.5, 0.62, 0.16, "#d9b382")
    for x in (0.38, 0.62):
        disc(x, 0.42, 0.035, "#201510")
    disc(0.5, 0.56, 0.05, "#201510")
    draw.arc([c * size for c in (0.43, 0.58, 0.57, 0.7)], 20, 160, fill="#201510", width=max(1, size // 100))
    return image


def draw_shape(shape: str, seed: int, size: int = 96) -> Image.Image:
    """A "circle", "square" or "triangle" of random size, place and colour on a blotchy ground."""
    rng = random.Random(f"{shape} {seed}")
    dark = [rng.randrange(100) for _ in range(3)]
    image = Image.new("RGB", (5, 5))
    image.putdata([tuple(rng.randrange(130, 256) for _ in range(3)) for _ in range(25)])  # so that no two look alike
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    radius = rng.uniform(0.2, 0.35) * size
    x, y = (rng.uniform(radius, size - radius) for _ in range(2))
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(dark))
    else:
        draw.regular_polygon((x, y, radius), {"square": 4, "triangle": 3}[shape], fill=tuple(dark))
    return image


def draw_folder(folder: Path, count: int, shapes=("circle", "square", "triangle")) -> Path:
    """`count` drawings of each shape, in one folder for each."""
    for shape in shapes:
        (folder / shape).mkdir(parents=True)
        for seed in range(count):
            draw_shape(shape, seed).save(folder / shape / f"{seed}.png")
    return folder


def draw_loaders(folder: Path, count: int, size: int):
    """DataLoaders as training.ipynb makes them, of `count` drawings of each shape, and the data set."""
    from fastai.vision.all import CategoryBlock, ColReader, ColSplitter, DataBlock, ImageBlock, Resize

    from bears.dataset import check_photos, split
    from bears.training import DecodedOnce

    photos = split(check_photos(draw_folder(folder, count))[0].assign(group=lambda photos: photos.sha256), 42)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=DecodedOnce(photos.file, 96),
        get_y=ColReader("label"),
        splitter=ColSplitter("split", on="valid"),
        item_tfms=Resize(size, "squish"),
    )
    return block.dataloaders(photos[photos.split != "test"], bs=8, num_workers=0), photos


def pickled_names(export: Path) -> tuple[set[str], list[str]]:
    """The modules that an export.pkl imports when it is loaded, and all strings in it; nothing is unpickled."""
    with zipfile.ZipFile(export) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        opcodes = list(pickletools.genops(archive.read(name)))
    # with protocol 2, a class or function is always named by one GLOBAL opcode
    assert {opcode.name for opcode, _, _ in opcodes}.isdisjoint({"STACK_GLOBAL", "INST"})
    modules = {argument.split(" ")[0] for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    return modules, [argument for _, argument, _ in opcodes if isinstance(argument, str)]


def assert_portable(export: Path) -> None:
    """It opens where this package, this operating system and this Python are not."""
    modules, strings = pickled_names(export)
    packages = {module.split(".")[0] for module in modules}
    assert {"torch", "fastai"} <= packages
    assert packages <= {*sys.stdlib_module_names, "__builtin__"} | {
        "torch", "torchvision", "fastai", "fastcore", "fasttransform", "timm", "plum", "cloudpickle", "numpy", "PIL"
    }  # fmt: skip
    assert packages.isdisjoint({"__main__", "pathlib"})
    assert not [string for string in strings if "_make_function" in string], "bytecode of one Python version"
    assert not [string for string in strings if string.startswith(("/", "C:\\", "bears"))], "a path, or this package"


@pytest.fixture(scope="session")
def real_photos() -> Path:
    folder = os.environ.get("BEARS_TEST_PHOTOS")
    if not folder:
        pytest.skip("needs real photos: BEARS_TEST_PHOTOS names no folder")
    return Path(folder)
