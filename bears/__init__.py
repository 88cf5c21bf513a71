"""The code behind app.ipynb and training.ipynb. Each module says what it is for; start with `classifier`.

On the ground are the modules of this folder, which all the others stand on; `training` is what training.ipynb is made
of, and `serving` what a visitor's page is made of. The ground imports from neither, and neither from the other.
"""

from bears import torchvision_ops

torchvision_ops.install()  # before anything of ours can import torchvision, by way of fastai or timm
