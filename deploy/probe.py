"""Opens the page as a visitor would, ends its kernel again, and fails with a sentence if that cannot be done.

A full house is a good one: whoever is inside has to reach it.

python probe.py [URL]
"""

import re
import sys
import urllib.error
import urllib.request

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8866/"
try:
    with urllib.request.urlopen(url, timeout=120) as response:
        page = response.read().decode()
    kernel = re.search(r'"kernelId": ?"([\w-]+)"', page)
    if not kernel:
        sys.exit("The page has no kernel.")
    urllib.request.urlopen(f"{url}voila/api/shutdown/{kernel[1]}", data=b"", timeout=120).close()
except urllib.error.HTTPError as error:
    sys.exit(0 if error.code == 503 and "Retry-After" in error.headers else f"The page does not answer: {error}")
except OSError as error:
    sys.exit(f"The page does not answer: {error}")
if "application/vnd.jupyter.widget-view+json" not in page:
    sys.exit("The page has no widgets: its notebook failed.")
