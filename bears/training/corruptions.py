"""What photos from the field suffer from, and how a classifier stands it.

Names and meaning are those of Hendrycks and Dietterich (Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations, 2019) where they have them. Each has severities from 1, which one hardly sees, to 5, which one would
not send; 0 changes nothing. Lengths are shares of the shorter side, so that photos of all sizes suffer alike.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fastprogress.fastprogress import progress_bar
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import convolve

from bears.classifier import BATCH, Classifier
from bears.training.evaluation import wilson

SEVERITIES = 5
MOST = 300  # photos, each of which is corrupted in every way: four thousand forward passes

Corruption = Callable[[Image.Image, int, np.random.Generator, Image.Image], Image.Image]
CORRUPTIONS: dict[str, Corruption] = {}


def corrupt(
    picture: Image.Image,
    name: str,  # of `CORRUPTIONS`
    severity: int,  # 0 to 5
    seed: int = 0,
    behind: Image.Image | None = None,  # another photo, for what needs a background
) -> Image.Image:
    """An RGB picture of the same size; with the same seed the same."""
    if severity == 0:
        return picture.copy()
    return CORRUPTIONS[name](picture, severity - 1, np.random.default_rng(seed), behind or picture)


def _corruption(function: Corruption) -> Corruption:
    CORRUPTIONS[function.__name__] = function
    return function


def _pixels(picture: Image.Image) -> np.ndarray:
    """(height, width, 3), 0 to 1"""
    return np.asarray(picture, np.float32) / 255


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8), "RGB")


def _light(pixels: np.ndarray) -> np.ndarray:
    """What falls onto the sensor, of pixels in sRGB, roughly."""
    return pixels**2.2


def _seen(light: np.ndarray) -> np.ndarray:
    return light.clip(0, 1) ** (1 / 2.2)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return (pixels @ np.float32([0.299, 0.587, 0.114]))[..., None].repeat(3, axis=2)


@_corruption
def grey(picture, severity, rng, behind):
    """From pale to black and white."""
    share = (0.4, 0.6, 0.8, 0.9, 1)[severity]
    pixels = _pixels(picture)
    return _picture((1 - share) * pixels + share * _grey(pixels))


@_corruption
def infrared(picture, severity, rng, behind):
    """A camera trap at night: grey, lit from the middle, noise."""
    edge, noise = ((0.8, 0.03), (0.6, 0.05), (0.45, 0.07), (0.3, 0.09), (0.2, 0.12))[severity]
    pixels = _grey(_pixels(picture))
    height, width, _ = pixels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    lit = 1 - (1 - edge) * np.minimum(x**2 + y**2, 1)[..., None]
    return _picture(_seen(_light(pixels) * lit) + noise * rng.standard_normal((height, width, 1)))


@_corruption
def dark(picture, severity, rng, behind):
    """Little light, and the noise that comes with it."""
    left = (0.5, 0.35, 0.25, 0.15, 0.08)[severity]
    light = left * _light(_pixels(picture))
    return _picture(_seen(rng.poisson(1000 * light) / 1000 + 0.004 * rng.standard_normal(light.shape)))


@_corruption
def brightness(picture, severity, rng, behind):
    """Overexposed."""
    return _picture(_seen((1.5, 2, 2.8, 4, 6)[severity] * _light(_pixels(picture))))


@_corruption
def contrast(picture, severity, rng, behind):
    """Haze, or a dirty window."""
    left = (0.7, 0.5, 0.35, 0.25, 0.15)[severity]
    pixels = _pixels(picture)
    return _picture(left * pixels + (1 - left) * pixels.mean())


@_corruption
def gaussian_noise(picture, severity, rng, behind):
    pixels = _pixels(picture)
    return _picture(pixels + (0.04, 0.06, 0.09, 0.13, 0.18)[severity] * rng.standard_normal(pixels.shape))


@_corruption
def shot_noise(picture, severity, rng, behind):
    """Few photons in bright light."""
    photons = (120, 60, 30, 15, 8)[severity]
    return _picture(rng.poisson(photons * _pixels(picture)) / photons)


@_corruption
def defocus_blur(picture, severity, rng, behind):
    radius = (0.006, 0.01, 0.015, 0.02, 0.027)[severity] * min(picture.size)
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _convolved(picture, np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


@_corruption
def motion_blur(picture, severity, rng, behind):
    half, angle = (0.01, 0.018, 0.026, 0.038, 0.055)[severity] * min(picture.size), rng.uniform(0, np.pi)
    reach = int(np.ceil(half))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    return _convolved(picture, np.clip(half + 0.5 - abs(along), 0, 1) * np.clip(1 - abs(across), 0, 1))


def _convolved(picture: Image.Image, kernel: np.ndarray) -> Image.Image:
    return _picture(convolve(_pixels(picture), (kernel / kernel.sum())[..., None], mode="nearest"))


@_corruption
def jpeg_compression(picture, severity, rng, behind):
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=(30, 18, 12, 8, 5)[severity])
    return Image.open(content).convert("RGB")


@_corruption
def pixelate(picture, severity, rng, behind):
    """A thumbnail, made large again."""
    scale = (128, 96, 64, 48, 32)[severity] / min(picture.size)
    small = [max(1, round(scale * length)) for length in picture.size]
    return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)


@_corruption
def small(picture, severity, rng, behind):
    """The whole photo somewhere in another one, which is out of focus."""
    share = (0.8, 0.65, 0.5, 0.4, 0.33)[severity]
    ground = behind.resize(picture.size).filter(ImageFilter.GaussianBlur(0.04 * min(picture.size)))
    size = [max(1, round(share * length)) for length in picture.size]
    place = [int(rng.integers(0, whole - part + 1)) for whole, part in zip(picture.size, size, strict=True)]
    mask = Image.new("L", size, 0)
    border = [max(1, round(0.06 * length)) for length in size]
    mask.paste(255, (border[0], border[1], size[0] - border[0], size[1] - border[1]))
    mask = mask.filter(ImageFilter.GaussianBlur(min(border) / 2))
    ground.paste(picture.resize(size, Image.Resampling.LANCZOS), place, mask)
    return ground


@_corruption
def screenshot(picture, severity, rng, behind):
    """The photo on a telephone's screen, with bars and lines of text above and below."""
    share = (0.9, 0.8, 0.7, 0.6, 0.5)[severity]
    shade = int(rng.choice([0, 255]))
    screen = Image.new("RGB", picture.size, (shade,) * 3)
    width, height = picture.size
    size = (max(1, round(share * width)), max(1, round(share * height)))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    draw = ImageDraw.Draw(screen)
    line = max(2, height // 30)
    for y in [*range(line, top - line, 2 * line), *range(top + size[1] + line, height - line, 2 * line)]:
        draw.rectangle((left, y, left + rng.uniform(0.3, 1) * size[0], y + line / 2), fill=(128,) * 3)
    screen.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    return screen


@_corruption
def watermark(picture, severity, rng, behind):
    """Letters across it, and a camera's date below."""
    opacity, lines = ((60, 1), (90, 2), (120, 3), (150, 4), (190, 5))[severity]
    width, height = picture.size
    letters = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(letters)
    for line in range(lines):
        y = height * (line + 0.5) / lines
        font = ImageFont.load_default(min(height / 6, height / (1.5 * lines)))
        draw.text((rng.uniform(0, 0.2) * width, y), "PHOTO  PHOTO", (255, 255, 255, opacity), font, anchor="lm")
    stamp = ImageFont.load_default(max(6, height / 14))
    draw.rectangle((0, 0.92 * height, width, height), fill=(0, 0, 0, 255))
    draw.text((0.02 * width, 0.96 * height), "2026-11-05 03:42  7°C", (255, 255, 255, 255), stamp, anchor="lm")
    return Image.alpha_composite(picture.convert("RGBA"), letters).convert("RGB")


# The report


@dataclass(frozen=True)
class Robustness:
    """What `robustness` finds: a row for each photo in each corruption."""

    answers: pd.DataFrame  # corruption, severity, wrong, doubted, covered (by the set), labels (in the set)

    def summary(self) -> pd.DataFrame:
        """Of each corruption, and of all: photos, error (with its 95 % interval, Wilson), and what was said of it."""
        rows = {name: _shares(group) for name, group in self.answers.groupby("corruption", sort=False)}
        return pd.DataFrame.from_dict(rows | {"all": _shares(self.answers)}, "index")

    def plot(self) -> None:
        """Error, and what is wrong and not doubted, by severity."""
        columns = 5
        rows = -(-self.answers.corruption.nunique() // columns)
        _, axes = plt.subplots(rows, columns, figsize=(12, 2.2 * rows), sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[self.answers.corruption.nunique() :]:
            ax.axis("off")
        for ax, (name, group) in zip(axes.flat, self.answers.groupby("corruption", sort=False), strict=False):
            table = group.assign(unnoticed=group.wrong & ~group.doubted).groupby("severity")
            for column, label in ("doubted", "doubted"), ("wrong", "wrong"), ("unnoticed", "wrong, not doubted"):
                ax.plot(table[column].mean(), marker="o", markersize=3, label=label)
            ax.set_title(name, fontsize=9)
        axes[0, 0].legend(fontsize=7)
        axes[0, 0].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes[-1, 0].set_xlabel("severity")
        plt.tight_layout()


def _shares(answers: pd.DataFrame) -> dict:
    of, wrong = len(answers), int(answers.wrong.sum())
    low, high = wilson(wrong, of)
    unnoticed = int((answers.wrong & ~answers.doubted).sum())
    return {
        "photos": of,
        "error": f"{wrong / of:.1%} ({low:.1%} to {high:.1%})",
        "doubted": f"{answers.doubted.mean():.1%}",
        "wrong, not doubted": f"{unnoticed / of:.1%}",
        "right label in the set": f"{answers.covered.mean():.1%}",
        "labels in a set": f"{answers.labels.mean():.2f}",
    }


def robustness(
    classifier: Classifier,
    photos: pd.DataFrame,  # a data set; of more than 300, some
    opened: Callable[[Path], Image.Image],
) -> Robustness:
    """How often a classifier is wrong, and doubts, where `photos` are corrupted; each photo once in each corruption."""
    photos = photos.sample(min(MOST, len(photos)), random_state=0)
    files, labels, rows = [*photos.file], [*map(str, photos.label)], []
    tasks = [
        (name, 1 + (photo + turn) % SEVERITIES, photo)  # severities in turn
        for turn, name in enumerate(CORRUPTIONS)
        for photo in range(len(files))
    ]
    for start in progress_bar(range(0, len(tasks), BATCH), leave=False):
        some = tasks[start : start + BATCH]
        pictures = [
            corrupt(opened(files[photo]), name, severity, seed, opened(files[(photo + 1) % len(files)]))
            for seed, (name, severity, photo) in enumerate(some, start)
        ]
        for (name, severity, photo), answer in zip(some, classifier.classify(pictures), strict=True):
            of_set = answer.plausible or (answer.label,)
            rows.append({
                "corruption": name, "severity": severity,
                "wrong": answer.label != labels[photo], "doubted": answer.recognised is False,
                "covered": labels[photo] in of_set, "labels": len(of_set),
            })  # fmt: skip
    return Robustness(pd.DataFrame(rows))
