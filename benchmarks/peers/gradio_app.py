"""The same export.pkl behind Gradio, for the benchmark: python gradio_app.py PORT, in a folder with an export.pkl."""

import sys

import bears  # noqa: F401  before fastai, see bears/torchvision_ops.py

# isort: split
import gradio
from fastai.vision.all import load_learner

learn = load_learner("export.pkl", cpu=True)


def classify(photo) -> dict[str, float]:
    probabilities = learn.predict(photo)[2]
    return dict(zip(learn.dls.vocab, map(float, probabilities), strict=True))


page = gradio.Interface(
    classify,
    gradio.Image(type="pil"),
    gradio.Label(),
    api_name="classify",
    flagging_mode="never",
    submit_btn="Classify",
    analytics_enabled=False,
)
page.launch(server_port=int(sys.argv[1]), quiet=True)
