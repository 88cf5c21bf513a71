"""Pictures that no one took: everything the tests need is drawn, so the suite runs anywhere.

Two environment variables make it stricter where more is at hand:
BEARS_TEST_PHOTOS   a folder with real photos in bears/black, bears/grizzly, bears/teddy, not_bears and originals
BEARS_TEST_BROWSER  "required" turns the browser tests from skipped to failed where a browser or npm is missing
"""

import functools
import io
import math
import os
import pickletools
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image, ImageColor, ImageDraw

import bears  # noqa: F401  before any test module imports fastai or timm, see bears/torchvision_ops.py

pytest_plugins = ["browsing"]

ROOT = Path(__file__).parent.parent

# The same files in every run; with --hypothesis-profile=thorough others, and many more.
settings.register_profile("default", max_examples=40, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=400, deadline=None, database=None)
settings.load_profile("default")


def encode(image: Image.Image, format: str, **options) -> bytes:
    """The content of a file of that format."""
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


@functools.cache
def _drawn_bear(size: int, fur: str) -> Image.Image:
    rng = random.Random(0)
    image = Image.new("RGB", (size, size), "#c8c2b8")
    draw = ImageDraw.Draw(image)
    colour = ImageColor.getrgb(fur)
    pale = tuple(min(255, round(1.25 * channel + 18)) for channel in colour)

    def disc(x, y, width, height, fill):
        draw.ellipse([size * c for c in (x - width, y - height, x + width, y + height)], fill=fill)

    def fluff(x, y, width, height, colour, length=0.035):
        """A ball of hairs that point outwards, those at the rim first; light comes from above."""
        disc(x, y, width, height, tuple(round(0.45 * channel) for channel in colour))
        hairs = ((rng.random() ** 0.5, rng.uniform(0, 2 * math.pi)) for _ in range(round(400_000 * width * height)))
        for r, angle in sorted(hairs, reverse=True):
            across, down = r * math.cos(angle), r * math.sin(angle)
            light = 0.35 + max(0, 0.34 * math.sqrt(1 - r * r) - 0.41 * down - 0.26 * across) + rng.uniform(-0.16, 0.16)
            start = x + across * width, y + down * height
            long, turned = length * (0.35 + 0.65 * r) * rng.uniform(0.5, 1.2), angle + rng.uniform(-0.9, 0.9)
            end = start[0] + long * math.cos(turned), start[1] + long * (math.sin(turned) + 0.35)
            shade = tuple(min(255, max(0, round(light * channel))) for channel in colour)
            draw.line([size * c for c in (*start, *end)], fill=shade, width=max(1, size // 240))

    draw.rectangle((0, 0.72 * size, size, size), fill="#966f50")
    disc(0.5, 0.92, 0.4, 0.06, "#5b4230")
    for side in (-1, 1):
        fluff(0.5 + 0.205 * side, 0.125, 0.085, 0.085, colour)
        fluff(0.5 + 0.2 * side, 0.135, 0.045, 0.045, pale)
    fluff(0.5, 0.66, 0.215, 0.235, colour)
    fluff(0.5, 0.68, 0.13, 0.15, pale)
    for side in (-1, 1):
        fluff(0.5 + 0.26 * side, 0.6, 0.085, 0.16, colour)
        fluff(0.5 + 0.22 * side, 0.86, 0.13, 0.105, colour)
        fluff(0.5 + 0.245 * side, 0.885, 0.07, 0.065, pale, length=0.015)
    fluff(0.5, 0.28, 0.235, 0.21, colour)
    fluff(0.5, 0.345, 0.105, 0.085, pale, length=0.02)
    for side in (-1, 1):
        disc(0.5 + 0.095 * side, 0.25, 0.024, 0.026, "#140d08")
        disc(0.492 + 0.095 * side, 0.241, 0.007, 0.007, "#e8e8e8")
        mouth = [size * c for c in (0.475 + 0.025 * side, 0.335, 0.525 + 0.025 * side, 0.385)]
        draw.arc(mouth, 10, 170, fill="#2a1a10", width=max(2, size // 160))
    disc(0.5, 0.31, 0.036, 0.025, "#1a100a")
    return image


def draw_bear(size: int = 480, fur: str = "#b07842") -> Image.Image:
    """A teddy bear, furry enough to be recognised as one."""
    return _drawn_bear(size, fur).copy()


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


def draw_loaders(folder: Path, count: int, size: int, method: str = "squish"):
    """DataLoaders as training.ipynb makes them, of `count` drawings of each shape, and the data set."""
    from fastai.vision.all import CategoryBlock, ColReader, ColSplitter, DataBlock, ImageBlock, Resize

    from bears.training.dataset import check_photos, split
    from bears.training.learning import DecodedOnce

    photos, _ = check_photos(draw_folder(folder, count))
    photos = split(photos.assign(group=photos.sha256), 42)
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=DecodedOnce(photos.file, 96),
        get_y=ColReader("label"),
        splitter=ColSplitter("split", on="valid"),
        item_tfms=Resize(size, method),
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


def run_python(script: str, folder=ROOT, python=sys.executable, env: dict[str, str] | None = None) -> str:
    """What a fresh Python prints, errors and warnings included; `env` is added to the environment."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.run([python, "-c", script], cwd=folder, env={**os.environ, **(env or {})}, **pipes)
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.fixture(scope="session")
def real_photos() -> Path:
    folder = os.environ.get("BEARS_TEST_PHOTOS")
    if not folder:
        pytest.skip("needs real photos: BEARS_TEST_PHOTOS names no folder")
    return Path(folder)
