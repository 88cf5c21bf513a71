"""The JupyterHub of jupyterhub.yaml without Kubernetes, on this machine, to try it: anybody is let in by its password.

jupyterhub -f deploy/jupyterhub_config.py
"""

import os
import tempfile
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent
VALUES = yaml.safe_load(Path(__file__).with_name("jupyterhub.yaml").read_text())

c = get_config()  # noqa: F821

for name, options in VALUES["hub"]["config"].items():
    c[name].update(options)
c.JupyterHub.spawner_class = "simple"  # processes of whoever runs the hub: not safe for users who are not you
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.db_url = "sqlite://"  # nothing stays, here and in the next two lines
c.JupyterHub.cookie_secret = os.urandom(32)
c.ConfigurableHTTPProxy.pid_file = str(Path(tempfile.mkdtemp(), "proxy.pid"))
c.Spawner.cmd = [str(FOLDER / "binder" / "start"), VALUES["singleuser"]["cmd"]]
c.Spawner.default_url = VALUES["singleuser"]["defaultUrl"]
c.Spawner.start_timeout = VALUES["singleuser"]["startTimeout"]
c.Spawner.notebook_dir = str(FOLDER)
