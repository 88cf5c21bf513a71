"""Make `import torchvision` pass where its compiled operators do not load.

On the Python package index, torchvision is built for CUDA. Beside a CPU build of torch its operators do not load,
and the import stops with "operator torchvision::nms does not exist": torchvision describes operators to torch that
nothing has defined. Nothing here calls them, so declaring them is enough. Where they load (conda, the CPU wheel index,
macOS, a GPU machine) this does nothing.

`bears/__init__.py` installs it, so any import of bears that comes before fastai's will do. It waits for the import of
torchvision, because torch itself takes a second and not every process that imports bears needs it.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder

declared = []  # torch forgets the declarations when these objects go away


def install() -> None:
    """See to torchvision when it is imported; nothing, if it has been already."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision where it is found anyway, and gives its module a second try."""

    def find_spec(self, name, path=None, target=None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torchvision" else None
        if spec and spec.loader:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _execute(execute, module)
        return spec


def _execute(execute, module) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare()
        execute(module)


def _declare() -> None:
    from torch import library

    fragment = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declared.append(fragment)
