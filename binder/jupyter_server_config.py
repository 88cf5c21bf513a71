"""The page within a Jupyter server, at app/. binder/start tells the server of this file."""

import os
from pathlib import Path

c = get_config()  # noqa: F821

c.ServerProxy.servers = {
    "app": {
        # The page that binder/start has started answers already; then this copy waits, to take its place.
        "command": [str(Path(__file__).with_name("page")), "{port}", "{base_url}app/"],
        "port": int(os.environ.get("PAGE_PORT", 0)),  # 0 is any
        "absolute_url": True,  # and the question whether it is ready, which is at /, costs it no kernel
        "timeout": 120,
        "request_headers_override": {"Cookie": ""},  # it needs none, and would withdraw the server's as invalid
        "launcher_entry": {"title": "Classifier"},
    }
}

# Uploads pass through this server, too. voila.json says the same.
c.ServerApp.tornado_settings = {"websocket_max_message_size": 134217728}
