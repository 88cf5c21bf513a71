"""What it costs to say whether a photo is recognised: the forward pass alone, and with novelty, in turns, in one run.

.venv/bin/python benchmarks/novelty.py
"""

import statistics
import time

import torch

from bears.classifier import Classifier
from bears.novelty import forward, pooled

REPEATS, SIZE = 200, 288  # pixels, of the released classifier


def main() -> None:
    torch.set_num_threads(1)
    classifier = Classifier.load("export.pkl")
    model, reference = classifier._model, classifier.reference
    photo = torch.rand(1, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    milliseconds = {"forward pass": [], "with novelty": []}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, times in milliseconds.items():
                start = time.perf_counter()
                if name == "with novelty":
                    activations, _ = forward(model, photo)
                    reference.novelty(pooled(activations)).item()
                else:
                    model(photo)
                times.append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(times) for name, times in milliseconds.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.2f} ms on one core (median of {REPEATS})")
    print(f"ratio: {medians['with novelty'] / medians['forward pass']:.2f}")


if __name__ == "__main__":
    main()
