"""What every visitor's kernel needs, made once, before it is forked. Named in voila.json."""

import gc
from contextlib import suppress

from PIL import Image

import bears.serving.uploads  # noqa: F401
from bears.classifier import Classifier, ExportError

_warm = None


def preload() -> None:
    """Load the classifier, if export.pkl is a new one, and let it answer once.

    The first answer takes ten times as long as the others, because torch compiles what it needs. It must not start
    threads here, which is why voila.json sets OMP_NUM_THREADS.
    """
    global _warm
    with suppress(ExportError):  # the page says so itself
        if (classifier := Classifier.load("export.pkl")) is not _warm:
            classifier.classify(Image.new("RGB", (640, 480)))
            before, _warm = _warm, classifier
            if before:
                del before
                gc.unfreeze()  # or it would stay for ever, see forked_kernels
                gc.collect()
