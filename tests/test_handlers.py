"""bears.serving.handlers: whatever a visitor asks the server for, it answers, and gives nothing away."""

import http.client
from itertools import product
from urllib.parse import urlsplit

import pytest
import requests

PLACES = [
    "/voila/templates/",
    "/voila/templates/bears/",
    "/voila/templates/bears/static/",
    "/voila/static/",
    "/voila/files/",
    "/voila/labextensions/",
    "/voila/api/themes/",
    "/voila/query/",
    "/api/kernels/",
    "/",
]
ODD = [
    "..",
    "%2e%2e/conf.json",
    "../conf.json",
    "..%2fconf.json",
    "%2e%2e%2f%2e%2e%2fvoila.json",
    "%2e%2e/" * 9 + "etc/passwd",
    "%2fetc%2fpasswd",
    "..%5cconf.json",
    "static/",
    "static/frontend.css/x",
    "frontend.css%00",
    "%00",
    "%ff%fe",
    "%zz",
    "%0d%0aX:%20y",
    "~root/",
    "missing",
    "x" * 300,
    "x" * 5000,
    "x%2f" * 1000,
    "%F0%9F%90%BB",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("place", PLACES)
def test_an_odd_address_is_not_found(url, place, method):
    """Asked for as it is: requests and browsers would tidy it first."""
    for odd in ODD:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.request(method, place + odd)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert 300 <= answer.status < 500, (place + odd, answer.status)
        assert not [word for word in (b'"base_template"', b"root:", b"Traceback") if word in content], place + odd


@pytest.mark.parametrize("name, value", product(["template", "theme"], ["missing", "..%2f..", "%00"]))
def test_a_visitor_cannot_ask_for_another_look(url, name, value):
    """Voilà would otherwise look for a template that is not there, and never answer."""
    page = requests.get(f"{url}?{name}={value}", timeout=120)
    assert page.status_code == 200 and 'id="rendered_cells"' in page.text and "light-dark(" in page.text


def test_what_the_page_needs_is_found(url):
    script = requests.get(f"{url}voila/templates/bears/static/frontend.js.gz", timeout=60)
    assert script.status_code == 200 and script.content.startswith(b"\x1f\x8b")
    assert requests.head(f"{url}voila/templates/bears/static/frontend.css", timeout=60).status_code == 200
