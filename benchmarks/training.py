"""Photos per second of training.ipynb's way to train, beside the book's, in one run.

    .venv/bin/python benchmarks/training.py [FOLDER] [--rounds 2]

FOLDER holds a folder of photos for each label; without one, 192 pictures of 800 x 600 pixels are drawn. Both ways train
the same network on squares of the same size in batches of the same size, each in processes of their own, in turn:

book    RandomResizedCrop, aug_transforms and the Learner as in chapter 2 of the fastai book: photos decoded in every
        epoch by worker processes, memory given back after every batch, batch norm trained throughout
ours    photos decoded once, memory kept, channels last, batch norm left as it was

Of each, an epoch in which only the head learns and one with all layers free; the medians over the rounds are printed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ARCH, SIZE, BATCH = "tf_efficientnet_lite0", 224, 32


def draw(folder: Path) -> Path:
    for label in ("one", "two", "three"):
        (folder / label).mkdir()
        for number in range(64):
            noise = Image.effect_noise((80, 60), 90).resize((800, 600), Image.Resampling.BICUBIC)
            noise.convert("RGB").save(folder / label / f"{number}.jpg", quality=90)
    return folder


def train(way: str, folder: Path) -> dict[str, float]:
    """Photos per second of an epoch, by which layers learn; and the seconds before the first, "once"."""
    from bears.memory import keep_memory
    from bears.training import learning as ours
    from bears.training.layouts import photo_files

    import fastai.vision.all as vision  # isort: skip  after bears, see bears/torchvision_ops.py

    class Clock(vision.Callback):
        """Times the training part of an epoch."""

        def before_train(self):
            self.started = time.monotonic()

        def after_train(self):
            self.seconds = time.monotonic() - self.started

    vision.set_seed(42)
    block = {
        "blocks": (vision.ImageBlock, vision.CategoryBlock),
        "get_items": photo_files,
        "get_y": vision.parent_label,
    }
    block |= {"splitter": vision.RandomSplitter(seed=42), "batch_tfms": vision.aug_transforms()}
    started = time.monotonic()
    if way == "ours":
        keep_memory()
        opened = ours.DecodedOnce(photo_files(folder), round(1.15 * SIZE))
        block |= {"get_x": opened, "item_tfms": vision.Resize(SIZE, "squish")}
        loaders, options = (
            {"num_workers": 0},
            {"train_bn": False, "lin_ftrs": [], "concat_pool": False, "cbs": ours.callbacks()},
        )
    else:
        block |= {"item_tfms": vision.RandomResizedCrop(SIZE, min_scale=0.5)}
        loaders, options = {}, {}
    dls = vision.DataBlock(**block).dataloaders(folder, bs=BATCH, **loaders)
    learner = vision.vision_learner(dls, ARCH, metrics=vision.error_rate, **options, **ours.pretrained(ARCH))
    rates = {"once": time.monotonic() - started}
    with learner.no_bar(), learner.no_logging():
        for layers, prepare in ("head", learner.freeze), ("all", learner.unfreeze):
            prepare()
            learner.fit_one_cycle(1, slice(1e-4), cbs=[clock := Clock()])
            rates[layers] = len(dls.train) * BATCH / clock.seconds
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="photos; without it, some are drawn")
    parser.add_argument("--rounds", type=int, default=2, help="how often each way is run")
    parser.add_argument("--way", choices=("book", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(train(options.way, options.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or draw(Path(scratch))
        found = {"book": [], "ours": []}
        for _ in range(options.rounds):
            for way, runs in found.items():
                command = [sys.executable, "-W", "ignore", __file__, str(folder), "--way", way]
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs.append(json.loads(run.stdout.splitlines()[-1]))
    print(f"{ARCH}, {SIZE} pixels, batches of {BATCH}; {os.cpu_count()} cores, {platform.machine()}")
    print(f"{'':8}{'head alone':>16}{'all layers':>16}  photos per second, medians of {options.rounds}")
    medians = {
        way: [statistics.median(run[layers] for run in runs) for layers in ("head", "all")]
        for way, runs in found.items()
    }
    for way, (head, everything) in medians.items():
        once = statistics.median(run["once"] for run in found[way])
        print(f"{way:8}{head:>16.1f}{everything:>16.1f}  after {once:.1f} s of preparation")
    ratios = [ours / book for ours, book in zip(medians["ours"], medians["book"], strict=True)]
    print(f"{'ratio':8}{ratios[0]:>15.2f}x{ratios[1]:>15.2f}x")


if __name__ == "__main__":
    main()
