"""How well wrong labels are found, and how well it is foretold what more photos would give, on photos of yours.

    .venv/bin/python benchmarks/probe.py FOLDER [--cleaning cleaning.csv] [--draws 4]

FOLDER holds photos as training.ipynb takes them; their labels should be right. All but the test photos take part.

wrong labels   5 % of the labels are exchanged for others, at random. Which share of these photos is among the first 5
               and 10 % shown, sorted by the probability of their label for a probe that has not seen them
               (bears/training/probe.py), and by the loss of the network that was trained on all of them, as fastai's
               ImageClassifierCleaner has it
twice          what half of the photos say of the whole: the error that is foretold for twice as many, and that of the
               whole
"""

import argparse

import numpy as np
import pandas as pd

from bears.memory import keep_memory
from bears.training.dataset import check_photos, split
from bears.training.evaluation import outputs
from bears.training.learning import DecodedOnce, callbacks, pretrained
from bears.training.probe import learning_curve, out_of_fold

import fastai.vision.all as vision  # isort: skip  after bears, see bears/torchvision_ops.py

ARCH, SIZE, SEED = "tf_efficientnet_lite2", 240, 42


def learner(photos: pd.DataFrame, opened: DecodedOnce):
    """As training.ipynb makes it."""
    block = vision.DataBlock(
        blocks=(vision.ImageBlock, vision.CategoryBlock),
        get_x=opened,
        get_y=vision.ColReader("label"),
        splitter=vision.ColSplitter("split", on="valid"),
        item_tfms=vision.Resize(SIZE, "squish"),
        batch_tfms=vision.aug_transforms(),
    )
    vision.set_seed(SEED, reproducible=True)
    dls = block.dataloaders(photos, num_workers=0, bs=32)
    options = {"train_bn": False, "lin_ftrs": [], "concat_pool": False, "ps": 0.3, "cbs": callbacks()}
    return vision.vision_learner(dls, ARCH, metrics=vision.error_rate, **options, **pretrained(ARCH))


def flipped(photos: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`photos` with 5 % of the labels exchanged, and the column `wrong`."""
    rng = np.random.default_rng(seed)
    labels, wrong = photos.label.unique(), np.zeros(len(photos), bool)
    wrong[rng.choice(len(photos), round(0.05 * len(photos)), replace=False)] = True
    other = [rng.choice(labels[labels != label]) for label in photos.label]
    return photos.assign(wrong=wrong, label=photos.label.where(~wrong, other))


def found(photos: pd.DataFrame, suspicion: np.ndarray) -> list[float]:
    """Shares of what is wrong among the first 5 and 10 %."""
    order = photos.wrong.to_numpy()[np.argsort(-suspicion, kind="stable")]
    return [order[: round(share * len(order))].sum() / order.sum() for share in (0.05, 0.1)]


def say(name: str, shares: list[list[float]]) -> None:
    (first, second), least = np.mean(shares, axis=0), np.min(shares, axis=0)
    print(f"{name:36} {first:.0%} in the first 5 %, {second:.0%} in the first 10 % (at least {least[1]:.0%})")


def main(folder: str, cleaning: str, draws: int) -> None:
    keep_memory()
    photos, _ = check_photos(folder, cleaning)
    photos = split(photos, SEED)
    photos = photos[photos.split != "test"].reset_index(drop=True)
    opened = DecodedOnce(photos.file, round(1.15 * SIZE))
    untouched = learner(photos, opened)
    features = outputs(untouched.model, untouched.dls.test_dl(photos)).features

    probed, fitted = [], []
    for draw in range(draws):
        some = flipped(photos, draw)
        table = out_of_fold(features, some)
        own = table.to_numpy()[np.arange(len(some)), table.columns.get_indexer(some.label)]
        probed.append(found(some, -own))
    say(f"a probe, {draws} draws", probed)
    for draw in range(min(draws, 2)):
        some = flipped(photos, draw)
        trained = learner(some, opened)
        with trained.no_bar(), trained.no_logging():
            trained.fine_tune(3, base_lr=5e-3, freeze_epochs=3)
        answers = outputs(trained.model, trained.dls.test_dl(some, with_labels=True))
        loss = vision.F.cross_entropy(answers.logits, answers.targets.long(), reduction="none").numpy()
        fitted.append(found(some, loss))
    say(f"the network's losses, {len(fitted)} draws", fitted)

    whole = learning_curve(features, photos).table.iloc[-1]
    print(f"the whole: {whole.error:.2%} error, learnt from {whole.photos:.0f} photos")
    groups = photos.group.unique()
    for draw in range(draws):
        half = photos.group.isin(np.random.default_rng(draw).choice(groups, len(groups) // 2, replace=False)).to_numpy()
        print(f"half of it, draw {draw}: {learning_curve(features[half], photos[half])}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--cleaning", default="cleaning.csv")
    parser.add_argument("--draws", type=int, default=4)
    arguments = parser.parse_args()
    main(arguments.folder, arguments.cleaning, arguments.draws)
