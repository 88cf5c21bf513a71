"""MODEL_CARD.md: what an export.pkl is, what it was made of, and how well it does."""

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from fastai.learner import Learner
from huggingface_hub import EvalResult, ModelCardData

from bears.classifier import installed_versions
from bears.novelty import CONFIDENCE, KEEP, confidence_reached
from bears.plausible import COVER, cover_reached
from bears.training.corruptions import SEVERITIES, Robustness
from bears.training.dataset import counts
from bears.training.evaluation import ENOUGH, RESAMPLES, NoveltyScores, Scores, SetScores


@dataclass(frozen=True)
class Report:
    """What is known of a training run. What is left out, the card says was not recorded or not measured."""

    photos: pd.DataFrame | None = None  # the data set with its split, for the counts
    files: tuple[str | os.PathLike, ...] = ()  # what the data set came from, for the hashes
    weights: str = ""  # what training started from, see `bears.training.learning.origin`
    recipe: str = ""  # how it was trained
    source: str = ""  # where the photos came from
    minutes: float | None = None  # how long that took
    scores: Scores | None = None  # on the test photos, as visitors get their answers
    uncalibrated: Scores | None = None  # of the network alone, before the temperature and without a second look
    validation: Scores | None = None  # the same on the validation photos, which the temperature was fitted on
    novelty: NoveltyScores | None = None  # on the test photos, and on strangers if there are any
    sets: SetScores | None = None  # on the test photos: of the labels that cannot be ruled out
    robustness: Robustness | None = None  # on the test photos, corrupted
    licence: str | None = None  # of the classifier, as SPDX writes it ("apache-2.0"); None: whoever trained it decides


TEMPLATE = """\
---
{front_matter}---
# Model card

Written by training.ipynb together with `{file}`; the two belong together.

`{file}` names what is on a photo: {labels}. It is a fastai image classifier ({arch}, {size} pixels).

## Intended use

To learn from, and to sort photos that each show one of the labels. It is no ground for a decision that matters. Expect
more errors on photos of other origin than on those below, and on what is small, hidden or in the dark.
{unknown}

{licence}

## Training data

{data}

## Training

{training}

## Results

{results}

## Between which labels it cannot tell

{sets}

## What photos suffer from

{robustness}

## What it does not recognise

{novelty}

## Use

```python
from bears.classifier import Classifier

Classifier.load("{file}").classify("photo.jpg")
```

Or with fastai and timm alone, which neither compares the checksum first, nor sets a photo upright after its EXIF data,
nor divides the logits by `model.temperature`, nor looks again, nor says what it does not recognise or cannot tell
apart:

```python
from fastai.learner import load_learner

load_learner("{file}").predict("photo.jpg")
```
"""

DATA = """

{source} Near-duplicates are in one part only{but}. Validation photos decided on the temperature and the limit of
novelty; test photos were looked at when all that was done. What a person left out or relabelled is so in every part,
the test too: on photos as they are found, expect more errors. The test photos came from where the others came from, so
the test says nothing of photos from elsewhere."""

NO_SOURCE = "Where the photos came from was not recorded."

NO_LICENCE = "Whoever trained it has stated no licence for it."

AGAIN = """\
The figures are for what a visitor gets; *as trained* is the network alone. Where a photo is not recognised, the visitor
gets the answer of a second look, at the part that the first answer came from, if that can be told and is recognised
(bears/second_look.py)."""

KNOWS_NOVELTY = "Of a photo that lies far from all it was taught it says so, mostly; see *What it does not recognise*."

KNOWS_NO_NOVELTY = "Whatever is on a photo, the answer is one of the labels: it does not know what it has not seen."

LIMIT = """\
Novelty is how far a photo lies from the training photos (see bears/novelty.py); above 1 it is not recognised. The limit
was set on the validation photos, so that {keep:.0%} of new photos of the labels are recognised: {confidence}"""

STRANGERS = f"""\
Strangers are photos that show none of the labels. They had no part in training or in setting the limit. Photos of the
labels are the positive class: FPR is the share of strangers who pass where {KEEP:.0%} of the test photos pass; AUROC is
the chance that of a stranger and a test photo the stranger is the more novel. In brackets are 95 % intervals: of
{RESAMPLES:,} bootstrap samples, with both sides drawn anew, and Wilson's for the share that is recognised at the limit.
(Where nobody passes, the bootstrap has nobody to draw, and Wilson's interval says more.) What the pretrained network
has learnt apart, ImageNet's classes, is told best; others may pass more often."""

ROBUSTNESS = f"""\
The test photos once more, each with every corruption below (bears/training/corruptions.py), in severities from 1 to
{SEVERITIES} in turn. "Wrong, not doubted" is what nobody warns of. In brackets are 95 % intervals (Wilson). A
set holds the labels that cannot be ruled out."""

SETS = f"""\
With each answer go the labels that cannot be ruled out (bears/plausible.py). What a label needs for that was set on
the fifth of the validation photos that it was least sure of, so that of such photos {COVER:.0%} have their label in
the set"""

COVERAGE = """\
Error among the test photos that are left when the most novel, or the least probable, are not answered:"""


def model_card(
    file: str,  # the name of the export
    content: bytes,  # and what is in it
    learner: Learner,
    size: tuple[int, int],  # height and width that it looks at, pixels
    temperature: float,
    knows_novelty: bool,
    report: Report,
) -> str:
    """The text of MODEL_CARD.md, with the front matter that `Classifier.load` and model hubs read."""
    arch = learner.arch if isinstance(learner.arch, str) else learner.arch.__name__
    front_matter = ModelCardData(
        library_name="fastai",
        pipeline_tag="image-classification",
        license=report.licence,  # what is None is left out
        tags=["image-classification", "fastai", "timm"],
        labels=[str(label) for label in learner.dls.vocab],
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        versions=installed_versions(),
        **_measured(Path(file).stem, report),
    )
    return TEMPLATE.format(
        front_matter=front_matter.to_yaml() + "\n",
        file=file,
        labels=", ".join(map(str, learner.dls.vocab)),
        arch=arch,
        size=" × ".join(map(str, size)),
        licence=f"It is under the licence {report.licence}." if report.licence else NO_LICENCE,
        unknown=KNOWS_NOVELTY if knows_novelty else KNOWS_NO_NOVELTY,
        data=_data(report),
        training=_training(report, learner),
        results=_results(report, temperature, knows_novelty),
        sets=_sets(report),
        robustness=_robustness(report.robustness),
        novelty=_novelty(report) if knows_novelty else "It was trained without a way to tell.",
    )


def _measured(name: str, report: Report) -> dict:
    """What the card states of the test, for model hubs and for the page."""
    if report.scores is None:
        return {}
    result = EvalResult(
        task_type="image-classification",
        dataset_type="imagefolder",
        dataset_name="held-out photos",
        dataset_split="test",
        metric_type="accuracy",
        metric_value=round(float(1 - report.scores.error), 4),
    )
    return {"metrics": ["accuracy"], "model_name": name, "eval_results": [result], "held_out": _held_out(report)}


def _held_out(report: Report) -> dict:
    """What the page says of the test."""
    scores = report.scores
    interval = [round(bound, 4) for bound in scores.interval]
    doubted = {} if report.novelty is None else {"doubted": report.novelty.doubted}
    return {"photos": scores.of, "wrong": scores.wrong, "error_interval": interval} | doubted


def _data(report: Report) -> str:
    data = "Not recorded."
    if report.photos is not None:
        data = _markdown(counts(report.photos), "photos") + DATA.format(
            source=report.source or NO_SOURCE, but=_linked(report.photos)
        )
    if listed := [f"- `{Path(name).name}`: SHA-256 {_sha256(name)}" for name in report.files if Path(name).exists()]:
        data += "\n\nWhere the photos came from and what was decided about them:\n\n" + "\n".join(listed)
    return data


def _linked(photos: pd.DataFrame) -> str:
    """Of photos whose parts were kept, and which look alike only by way of others that came later."""
    several = photos.groupby("group").split.transform("nunique") > 1
    return f", but for {several.sum():,} that were in several before others linked them" if several.any() else ""


def _training(report: Report, learner: Learner) -> str:
    took = f" It took {report.minutes:.0f} minutes on {_hardware(learner)}." if report.minutes is not None else ""
    return "\n\n".join(filter(None, (report.weights, (report.recipe or "The recipe was not recorded.") + took)))


def _results(report: Report, temperature: float, knows_novelty: bool) -> str:
    scores = report.scores
    if scores is None:
        return "They were not measured."
    low, high = scores.interval
    again = f" {AGAIN}" if knows_novelty else ""
    columns = {} if report.uncalibrated is None else {"as trained": report.uncalibrated}
    columns |= {"as served": scores}
    calibration = pd.DataFrame({name: [score.nll, score.brier, score.ece] for name, score in columns.items()})
    calibration.index = ["NLL", "Brier score", "ECE, 15 bins"]
    return "\n\n".join([
        f"On the {scores.of:,} test photos, {scores.wrong} are taken for something else: {scores.error:.2%} error, "
        f"95 % interval (Wilson) {low:.2%} to {high:.2%}.{again}",
        _markdown(scores.confusion, "is / taken for"),
        _markdown(scores.per_class.round({"precision": 4, "recall": 4}), "label"),
        f"How far probabilities can be trusted (the temperature is {temperature:.3f}{_fitted_on(report.validation)}):",
        _markdown(calibration.round(4), "less is better"),
    ])  # fmt: skip


def _sets(report: Report) -> str:
    if report.sets is None:
        return "It was not measured."
    promise = f"{SETS}."
    if report.validation is not None and (reached := cover_reached(report.validation.of)) < COVER:
        promise = f"{SETS}; {report.validation.of:,} validation photos are too few, and promise {reached:.0%}."
    return f"{promise}\n\nOf the test photos: {report.sets}.\n\n{_markdown(report.sets.summary(), 'photos')}"


def _robustness(robustness: Robustness | None) -> str:
    if robustness is None:
        return "How it stands the dark, noise, blur and the like was not measured."
    return f"{ROBUSTNESS}\n\n{_markdown(robustness.summary(), 'corruption')}"


def _fitted_on(validation: Scores | None) -> str:
    if validation is None:
        return ""
    few = ": too few mistakes to judge by" if validation.wrong < ENOUGH else ""
    return f", fitted on {validation.of:,} validation photos, {validation.wrong} of them wrong{few}"


def _confidence(validation: Scores | None) -> str:
    if validation is None:
        return "with what confidence was not recorded."
    reached = confidence_reached(validation.of)
    few = " More validation photos would give more." if reached < CONFIDENCE else ""
    return f"with {reached:.0%} confidence, given {validation.of:,} validation photos.{few}"


def _novelty(report: Report) -> str:
    lines = [LIMIT.format(keep=KEEP, confidence=_confidence(report.validation))]
    scores = report.novelty
    if scores is None:
        return lines[0] + " How many are was not measured."
    low, high = scores.interval
    lines += [
        f"Of the {scores.of:,} test photos {scores.doubted} are doubted: {scores.doubted / scores.of:.2%}, 95 % "
        f"interval (Wilson) {low:.2%} to {high:.2%}.",
        COVERAGE,
        _markdown(scores.coverage.round(4), "answered"),
    ]
    if len(scores.strangers):
        lines += [STRANGERS, _markdown(scores.summary(), "strangers")]
    else:
        lines.append("How many strangers pass, photos that show none of the labels, was not measured.")
    return "\n\n".join(lines)


def _markdown(table: pd.DataFrame, corner: str) -> str:
    rows = [[corner, *table.columns], ["---"] * (len(table.columns) + 1)]
    rows += [[index, *row] for index, row in zip(table.index, table.astype(object).values.tolist(), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _sha256(file: str | os.PathLike) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _hardware(learner: Learner) -> str:
    if learner.dls.device.type == "cuda":
        return torch.cuda.get_device_name(learner.dls.device)
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
