"""Make `import torchvision` pass where its compiled operators do not load.

On the Python package index, torchvision is built for CUDA. Beside a CPU build of torch its operators do not load,
and the import stops with "operator torchvision::nms does not exist": torchvision describes operators to torch that
nothing has defined. Nothing here calls them, so declaring them is enough. Where they load (conda, the CPU wheel index,
macOS, a GPU machine) this does nothing.

Import this module before anything that imports torchvision; fastai does.
"""

from torch import library

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    # torch forgets the declarations when this object goes away
    _declared = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
