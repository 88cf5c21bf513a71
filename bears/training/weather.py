"""Bad light, bad optics and small animals, to learn from: what makes a classifier stand photos from the field.

The functions and strengths are not those that `bears.training.corruptions` reports on, but some are close relatives:
grey, few pixels, noise, a small animal. Of these the report tells less than of what has none here: watermarks,
screenshots.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage
from fastai.vision.augment import RandTransform
from torch import Tensor

MEET = 0.3  # how often a second thing happens to a photo to which one has


class Weather(RandTransform):
    """For `batch_tfms`: some of the training photos of each batch in bad weather, some of them small.

    The photos are (photos, 3, height, width), 0 to 1: it comes after fastai's own augmentation, before `Normalize`.
    Validation photos, and all at inference, stay as they are, and an export does not hold it.
    """

    order = 50

    def __init__(self, share: float = 0.6, small: float = 0.15):
        """The share of photos that something happens to, and the share that is put, small, before another one."""
        super().__init__()
        self.share, self.small = share, small

    def encodes(self, photos: TensorImage):
        plain, out = photos.as_subclass(Tensor), []
        for photo, other in zip(plain, plain.roll(1, 0), strict=True):
            if _uniform() < self.small:
                photo = shrunk(photo, other)
            if _uniform() < self.share:
                for index in torch.randperm(len(WEATHER))[: 1 + (_uniform() < MEET)].tolist():
                    photo = WEATHER[index](photo).clamp(0, 1)
            out.append(photo)
        return TensorImage(torch.stack(out))


def _uniform(low: float = 0, high: float = 1) -> float:
    """From torch's generator, which `set_seed` sets."""
    return low + (high - low) * torch.rand(()).item()


def shrunk(photo: Tensor, other: Tensor) -> Tensor:
    """`photo` at a third to three quarters of its size, in an oval, before all that is left of `other`: its colours."""
    _, height, width = photo.shape
    scale = _uniform(0.33, 0.75)
    high, wide = max(2, round(scale * height)), max(2, round(scale * width))
    blur = torch.randint(4, 13, ()).item()
    ground = _resized(_resized(other, (blur, blur), "area"), (height, width), "bicubic").clamp(0, 1)
    y, x = (torch.linspace(-1, 1, length, device=photo.device) for length in (high, wide))
    # 1 within the oval, 0 in the corners
    mask = ((1.3 - (y[:, None].abs() ** 3 + x.abs() ** 3)) / _uniform(0.2, 0.6)).clamp(0, 1)
    top, left = (torch.randint(0, room + 1, ()).item() for room in (height - high, width - wide))
    part = ground[:, top : top + high, left : left + wide]
    part.lerp_(_resized(photo, (high, wide), "area"), mask)
    return ground


def pale(photo: Tensor) -> Tensor:
    """Little colour or none, through a filter of any colour: films differ."""
    mixture = torch.rand(3).add(0.2)
    grey = (photo * (mixture / mixture.sum()).to(photo)[:, None, None]).sum(0, keepdim=True)
    return photo.lerp(grey.expand_as(photo), min(1.0, _uniform(0.5, 1.5)))


def night(photo: Tensor) -> Tensor:
    """Without colour, in a lamp's round light that falls anywhere, with another gamma and some grain."""
    photo = pale(photo).mean(0, keepdim=True).expand_as(photo)
    _, height, width = photo.shape
    y = torch.linspace(-1, 1, height, device=photo.device)[:, None] - _uniform(-0.4, 0.4)
    x = torch.linspace(-1, 1, width, device=photo.device) - _uniform(-0.4, 0.4)
    lamp = torch.exp(-(y**2 + x**2) / _uniform(0.6, 3))
    return _grained(photo ** _uniform(0.6, 1.8) * lamp, _uniform(0, 0.1))


def dim(photo: Tensor) -> Tensor:
    """Dusk: a steeper curve, a cast, grain where it is dark."""
    cast = 1 + 0.15 * torch.randn(3).to(photo)[:, None, None]
    return _grained(photo ** _uniform(1.2, 2.5) * _uniform(0.3, 0.9) * cast, _uniform(0, 0.05))


def glare(photo: Tensor) -> Tensor:
    """A curve that lifts everything, and a lens that has caught the sun from one side."""
    _, height, width = photo.shape
    side = torch.linspace(0, 1, width, device=photo.device) if _uniform() < 0.5 else None
    flare = side if side is not None else torch.linspace(0, 1, height, device=photo.device)[:, None]
    return photo ** _uniform(0.3, 0.9) + _uniform(0, 0.4) * (flare if _uniform() < 0.5 else 1 - flare)


def haze(photo: Tensor) -> Tensor:
    """Mist, which has a colour of its own."""
    mist = torch.rand(3).mul(0.3).add(_uniform(0.2, 0.7)).to(photo)[:, None, None]
    return photo.lerp(mist.expand_as(photo), _uniform(0.2, 0.8))


def grain(photo: Tensor) -> Tensor:
    """Noise as a camera's own smoothing leaves it: in blotches of one to three pixels, of one colour or of many."""
    return _grained(photo, _uniform(0.03, 0.2))


def coarse(photo: Tensor) -> Tensor:
    """Few pixels: thrown away, and made up again."""
    shape, few = photo.shape[1:], _uniform(0.12, 0.5)
    small = [max(2, round(few * length)) for length in shape]
    return _resized(_resized(photo, small, "bilinear"), shape, "nearest" if _uniform() < 0.3 else "bilinear")


def soft(photo: Tensor) -> Tensor:
    """Out of focus, by a Gaussian."""
    sigma = _uniform(0.5, 3) * photo.shape[1] / 240
    at = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, device=photo.device)
    line = torch.exp(-(at**2) / (2 * sigma**2))
    return _convolved(_convolved(photo, line[None]), line[:, None])


def shaken(photo: Tensor) -> Tensor:
    """The camera has moved, on a path that is bent: the mean of the photo at some places of it."""
    reach, angle, bend = _uniform(2, 12) * photo.shape[1] / 240, _uniform(0, 2 * math.pi), _uniform(-1, 1)
    steps = torch.linspace(-1, 1, 9)
    y = (reach * (math.sin(angle) * steps + bend * math.cos(angle) * steps**2)).round().int().tolist()
    x = (reach * (math.cos(angle) * steps - bend * math.sin(angle) * steps**2)).round().int().tolist()
    far = math.ceil(2 * reach)
    padded = F.pad(photo[None], (far,) * 4, "replicate")[0]
    _, height, width = photo.shape
    moved = [padded[:, far + j : far + j + height, far + i : far + i + width] for j, i in zip(y, x, strict=True)]
    return torch.stack(moved).mean(0)


def blocks(photo: Tensor) -> Tensor:
    """Compressed, roughly: within squares of eight pixels few shades are left, and less of the colour."""
    shape = photo.shape[1:]
    eighth = [max(2, round(length / 8)) for length in shape]
    ground = _resized(_resized(photo, eighth, "area"), shape, "nearest")
    detail, step = photo - ground, _uniform(0.06, 0.25)
    shade = detail.mean(0, keepdim=True)
    return ground + ((shade / step).round() * step).expand_as(photo)


WEATHER: tuple[Callable[[Tensor], Tensor], ...] = (
    *(pale, night, dim, glare, haze),
    *(grain, coarse, soft, shaken, blocks),
)


def _grained(photo: Tensor, strength: float) -> Tensor:
    channels, height, width = photo.shape
    colours, blotch = channels if _uniform() < 0.5 else 1, _uniform(1, 3)
    size = (max(2, round(height / blotch)), max(2, round(width / blotch)))
    noise = _resized(torch.randn(colours, *size).to(photo), (height, width), "bilinear")
    return photo + strength * noise


def _resized(photo: Tensor, size, mode: str) -> Tensor:
    return F.interpolate(photo[None], tuple(size), mode=mode)[0]


def _convolved(photo: Tensor, kernel: Tensor) -> Tensor:
    height, width = kernel.shape
    padded = F.pad(photo[:, None], (width // 2, width // 2, height // 2, height // 2), "replicate")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None].to(photo))[:, 0]
