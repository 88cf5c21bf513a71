"""Where to look again, closer, if a photo is not recognised: at the part that its answer came from.

The animal may be small in it. Where the last layer is a linear one and its features are means over the places of the
photo, its scores are means of what the places say, too. So which places spoke for an answer is known exactly, and for
nothing (class activation maps: Zhou et al., Learning Deep Features for Discriminative Localization, 2016).
"""

import torch
from torch import Tensor, nn

STRONG = 0.5  # a place is part of it that lies above this share of the way from the weakest place to the strongest
MARGIN = 0.15  # by how much wider and higher the part is than those places
LEAST = 0.3  # of the width and the height of the photo; of less there are too few pixels

Box = tuple[float, float, float, float]  # left, top, right and bottom, as shares of the width and the height


def part(head: nn.Module, activations: Tensor, logits: Tensor) -> Box | None:
    """Where in a photo its most probable label was seen.

    `activations` (channels, rows, columns) are what `head` made the (labels,) `logits` of. None where these are no mean
    over places, as other heads mix them in other ways; or where it was seen everywhere.
    """
    if activations.ndim != 3:
        return None
    _, rows, columns = activations.shape
    try:
        places = head(activations.flatten(1).T[:, :, None, None])  # (places, labels)
    except (RuntimeError, ValueError):  # of heads that need more than one place
        return None
    if places.shape[1:] != logits.shape or not torch.allclose(places.mean(0), logits, rtol=1e-2, atol=1e-2):
        return None
    evidence = (places[:, logits.argmax()] - places.mean(1)).reshape(rows, columns)
    weakest, strongest = evidence.aminmax()
    strong = evidence > weakest + STRONG * (strongest - weakest)
    if not strong.any():
        return None
    (left, right), (top, bottom) = _span(strong.any(0)), _span(strong.any(1))
    box = left, top, right, bottom
    return None if box == (0, 0, 1, 1) else box


def _span(strong: Tensor) -> tuple[float, float]:
    """From the first to the last of the strong ones, as shares of all, with a margin, and as long as it has to be."""
    first, last = strong.nonzero().flatten()[[0, -1]].tolist()
    start, end = first / len(strong), (last + 1) / len(strong)
    length = min(1.0, max(LEAST, (1 + MARGIN) * (end - start)))
    start = min(max(0.0, (start + end - length) / 2), 1 - length)
    return start, start + length
