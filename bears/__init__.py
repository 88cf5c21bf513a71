"""The code behind app.ipynb and training.ipynb. Each module says what it is for; start with `classifier`.

On the ground are the modules of this folder, which all the others stand on; `training` is what training.ipynb is made
of, and `serving` what a visitor's page is made of. Nothing on the ground imports from either, nor they from each other.
"""

from bears import torchvision_ops

torchvision_ops.install()  # before anything of ours can import torchvision, by way of fastai or timm
