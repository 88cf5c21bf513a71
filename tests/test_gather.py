"""bears.training.gather: licensed photos from services that answer well, badly, slowly or not at all.

The services are played by a local server that answers in their documented shapes.
"""

import csv
import errno
import json
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import draw_shape, encode

from bears.training import TrainingError
from bears.training import gather as module
from bears.training.gather import gather

CONTACT = "someone@example.org"


class Server:
    """Answers each path with what `answers` holds for it: (status, headers, body), or a list of them, in turn."""

    def __init__(self):
        self.answers, self.requests = {}, []
        self.written = 0  # pieces of answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = urlsplit(self.path).path
                outer.requests.append((path, parse_qs(urlsplit(self.path).query), dict(self.headers), time.monotonic()))
                answer = outer.answers.get(path, (404, {}, b""))
                if callable(answer):
                    answer = answer(parse_qs(urlsplit(self.path).query))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, headers, body = answer
                pieces = [body] if isinstance(body, bytes) else body
                self.send_response(status)
                for name, value in ({"Content-Length": sum(map(len, pieces))} | headers).items():
                    self.send_header(name, str(value))
                self.end_headers()
                for piece in pieces:
                    try:
                        self.wfile.write(piece)
                        outer.written += 1
                    except OSError:  # the other side hung up
                        return
                    if len(pieces) > 1:
                        time.sleep(0.1)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def asked(self, path: str) -> list:
        return [request for request in self.requests if request[0] == path]

    def photo(self, name: str, **answer) -> str:
        """The address of a drawing, each name another one."""
        content = encode(draw_shape("circle", name), "PNG")
        self.answers[f"/{name}"] = (200, {}, content)
        return f"{self.url}/{name}"

    def openverse(self, *results: dict) -> None:
        def answer(query):
            page = int(query["page"][0])
            return as_json({"result_count": len(results), "results": results[20 * (page - 1) : 20 * page]})

        self.answers["/v1/images/"] = answer


def as_json(content) -> tuple:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def result(url: str, **more) -> dict:
    """One of Openverse's results."""
    return {
        "url": url,
        "thumbnail": None,
        "license": "by-sa",
        "license_version": "4.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "creator": "A. Painter",
        "foreign_landing_url": f"https://photos.example/{url.rsplit('/', 1)[-1]}",
        "width": 96,
        "height": 96,
    } | more


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(module, "OPENVERSE", f"{server.url}/v1/images/")
    monkeypatch.setattr(module, "COMMONS", f"{server.url}/w/api.php")
    monkeypatch.setattr(module, "PER_SECOND", 1000)
    monkeypatch.setattr(module, "OPENVERSE_PER_MINUTE", 60_000)
    yield server
    server.http.shutdown()
    server.http.server_close()


def manifest(folder: Path) -> list[dict]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def gather_circles(folder, **options):
    return gather(folder, {"circle": "a circle"}, CONTACT, sources=("openverse",), **options)


def test_photos_arrive_with_where_they_came_from(server, tmp_path):
    server.openverse(*(result(server.photo(f"photo{number}")) for number in range(25)))
    assert gather_circles(tmp_path, per_label=23) == []
    rows = manifest(tmp_path)
    assert len(rows) == 23 == len(list((tmp_path / "circle").iterdir()))
    row = rows[0]
    assert (tmp_path / row["file"]).stat().st_size == int(row["bytes"])
    assert row["label"] == "circle" and row["source"] == "openverse" and row["author"] == "A. Painter"
    assert row["licence"] == "by-sa 4.0" and row["licence_url"].endswith("/by-sa/4.0/")
    assert row["page"] == "https://photos.example/photo0" and row["width"] == "96"


def test_the_services_are_told_who_asks_and_for_which_licences(server, tmp_path):
    server.openverse(result(server.photo("photo")))
    gather_circles(tmp_path, per_label=1)
    _, query, headers, _ = server.asked("/v1/images/")[0]
    assert query["q"] == ['"a circle"'] and query["license"] == ["by,by-sa,cc0,pdm"] and query["page_size"] == ["20"]
    assert {CONTACT in headers["User-Agent"] for _, _, headers, _ in server.requests} == {True}


@pytest.mark.parametrize("contact, sent", [
    ("max@müller.example", "max@xn--mller-kva.example"),
    ("https://müller.example/über mich?größe=1", "https://xn--mller-kva.example/%C3%BCber%20mich?gr%C3%B6%C3%9Fe=1"),
    (" me@example.org\n", "me@example.org"),
])  # fmt: skip
def test_an_address_with_umlauts_is_sent_as_the_internet_writes_it(server, tmp_path, contact, sent):
    server.openverse(result(server.photo("photo")))
    gather(tmp_path, {"circle": "a circle"}, contact, per_label=1, sources=("openverse",))
    assert f"({sent})" in server.asked("/v1/images/")[0][2]["User-Agent"]


def test_a_source_that_drips_its_answer_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    server.answers["/v1/images/"] = (200, {"Content-Type": "application/json"}, [b" "] * 300)
    with pytest.raises(TrainingError, match="cannot be reached [(]Timeout[)]"):
        gather_circles(tmp_path, per_label=1)
    assert server.written < 100


def test_a_second_run_fetches_only_what_is_missing(server, tmp_path):
    server.openverse(*(result(server.photo(f"photo{number}")) for number in range(6)))
    gather_circles(tmp_path, per_label=3)
    gather_circles(tmp_path, per_label=5)
    assert len(manifest(tmp_path)) == 5
    assert [len(server.asked(f"/photo{number}")) for number in range(6)] == [1, 1, 1, 1, 1, 0]
    asked = len(server.requests)
    gather_circles(tmp_path, per_label=5)
    assert len(server.requests) == asked, "nothing was missing"


@pytest.mark.parametrize("mine", ["circle/mine.png", "train/circle/mine.png", "mine.png", "labels.csv"])
def test_photos_of_ones_own_are_left_alone(server, tmp_path, mine):
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    draw_shape("circle", 1).save(tmp_path / mine, format="PNG")
    assert gather(tmp_path, {"circle": "a circle"}, contact="") == []
    assert not server.requests and not (tmp_path / "manifest.csv").exists()


def test_gathered_photos_are_left_alone_where_nobody_says_who_asks(server, tmp_path):
    server.openverse(result(server.photo("photo")))
    gather_circles(tmp_path, per_label=1)
    asked = len(server.requests)
    assert gather(tmp_path, {"circle": "a circle"}, contact="", per_label=9) == []
    assert len(server.requests) == asked


def test_a_run_that_was_stopped_between_photo_and_manifest_goes_on(server, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    server.openverse(*(result(server.photo(f"photo{number}")) for number in range(2)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_append", stop)
        gather_circles(tmp_path, per_label=2)
    gather_circles(tmp_path, per_label=2)
    assert len(manifest(tmp_path)) == 2 == len(list((tmp_path / "circle").iterdir()))


def test_a_manifest_of_other_origin_is_not_written_to(server, tmp_path):
    (tmp_path / "manifest.csv").write_text("name,url\n")
    with pytest.raises(TrainingError, match="not written by this version"):
        gather_circles(tmp_path)
    assert (tmp_path / "manifest.csv").read_text() == "name,url\n"


def test_without_a_thumbnail_the_photo_itself_is_taken(server, tmp_path):
    server.answers["/thumbnail"] = (424, {}, b"")
    server.openverse(result(server.photo("photo"), thumbnail=f"{server.url}/thumbnail"))
    assert gather_circles(tmp_path, per_label=1) == []
    assert manifest(tmp_path)[0]["url"].endswith("/photo")


def test_retry_after_is_obeyed(server, tmp_path):
    server.answers["/v1/images/"] = [
        (429, {"Retry-After": 1}, b""),
        as_json({"results": [result(server.photo("one"))]}),
    ]
    gather_circles(tmp_path, per_label=1)
    first, second = (when for *_, when in server.asked("/v1/images/"))
    assert second - first >= 1


def test_a_used_up_limit_ends_the_run_and_keeps_what_is_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT", 0)
    page = as_json({"results": [result(server.photo(f"photo{number}")) for number in range(20)]})
    server.answers["/v1/images/"] = [page, (429, {"Retry-After": 86400}, b"")]
    with pytest.raises(TrainingError, match="come back later.*it goes on"):
        gather_circles(tmp_path, per_label=30)
    assert len(manifest(tmp_path)) == 20


def test_requests_keep_their_distance(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PER_SECOND", 1)
    server.openverse(*(result(server.photo(f"photo{number}")) for number in range(3)))
    gather_circles(tmp_path, per_label=3)
    first, _, last = [when for path, *_, when in server.requests if path.startswith("/photo")]
    assert last - first >= 1.5, "three requests at one a second"


@pytest.mark.parametrize(
    "answer, why",
    [
        ((403, {}, b"Forbidden"), "403"),
        ((200, {"Content-Type": "image/jpeg"}, b"<html>Please log in</html>"), "not a picture"),
        ((200, {}, b""), "empty"),
        ((200, {}, encode(draw_shape("circle", 0), "PNG")[:200]), "damaged or incomplete"),
        ((200, {"Content-Length": 10**6}, encode(draw_shape("circle", 0), "PNG")), ""),
        ((200, {}, bytes(20_000)), "larger than"),
        ((200, {}, [b"drip"] * 300), "not complete after"),
    ],
    ids=["forbidden", "html", "empty", "truncated", "cut off", "oversized", "slow"],
)
def test_a_bad_answer_is_listed_and_the_next_photo_taken(server, tmp_path, monkeypatch, answer, why):
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    server.answers["/bad"] = answer
    server.openverse(result(f"{server.url}/bad"), result(server.photo("good")))
    ((url, reason),) = gather_circles(tmp_path, per_label=1)
    assert url.endswith("/bad") and why in reason and reason
    assert server.written < 100, "it is given up when the time is over, not when a block is full"
    assert [row["url"].rsplit("/")[-1] for row in manifest(tmp_path)] == ["good"]
    assert len(list((tmp_path / "circle").iterdir())) == 1


def test_the_same_file_is_not_taken_twice(server, tmp_path):
    server.answers["/copy"] = server.answers[server.photo("photo").removeprefix(server.url)]
    server.openverse(result(f"{server.url}/photo"), result(f"{server.url}/copy"))
    assert gather_circles(tmp_path, per_label=2) == [(f"{server.url}/copy", "the same file is there already")]


def test_addresses_that_are_no_web_addresses_are_not_opened(server, tmp_path):
    server.openverse(result("file:///etc/passwd"), result(server.photo("photo")))
    ((url, why),) = gather_circles(tmp_path, per_label=1)
    assert url == "file:///etc/passwd" and "not an address of the web" in why


def test_a_label_without_results(server, tmp_path):
    server.openverse()
    with pytest.raises(TrainingError, match=r"Nothing was found for 'a circle' \(circle\) in openverse"):
        gather_circles(tmp_path)


@pytest.mark.parametrize("body", [b"<html>down</html>", b"[1, 2]"])
def test_a_service_that_answers_nonsense(server, tmp_path, body):
    server.answers["/v1/images/"] = (200, {}, body)
    with pytest.raises(TrainingError, match="answered 200 and nothing that can be used"):
        gather_circles(tmp_path)


@pytest.mark.parametrize("results", [[None], ["text"], [{"url": ["a", "list"]}], {"url": "no list"}])
def test_a_service_that_answers_in_another_shape(server, tmp_path, results):
    server.answers["/v1/images/"] = as_json({"results": results})
    with pytest.raises(TrainingError, match="openverse answered in another shape"):
        gather_circles(tmp_path)


def test_an_address_that_is_no_text(server, tmp_path):
    server.openverse({"url": 7}, result(server.photo("photo")))
    ((_, why),) = gather_circles(tmp_path, per_label=1)
    assert "not an address of the web" in why


def test_an_image_search_that_fails(tmp_path, monkeypatch):
    class DDGS:
        def images(self, words, max_results):
            raise RuntimeError("blocked")

    monkeypatch.setitem(sys.modules, "ddgs", types.SimpleNamespace(DDGS=DDGS))
    with pytest.raises(TrainingError, match="ddgs found nothing"):
        gather(tmp_path, {"circle": "a circle"}, CONTACT, sources=("ddgs",))


def test_no_internet(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OPENVERSE", "http://127.0.0.1:9/v1/images/")
    monkeypatch.setattr(module.Retry, "sleep", lambda *_: None)
    with pytest.raises(TrainingError, match="127.0.0.1:9 cannot be reached.*photos of your own"):
        gather_circles(tmp_path)


def test_a_full_disk(server, tmp_path, monkeypatch):
    def full(contents):
        raise OSError(errno.ENOSPC, "No space left on device")

    server.openverse(result(server.photo("photo")))
    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(TrainingError, match="the disk is full.*run this again to go on"):
        gather_circles(tmp_path)


def test_commons_goes_on_where_its_answer_says_and_authors_become_plain_text(server, tmp_path):
    def page(title: str) -> dict:
        info = {
            "thumburl": server.photo(title),
            "url": f"{server.url}/original-{title}",
            "descriptionurl": f"https://commons.example/{title}",
            "extmetadata": {
                "LicenseShortName": {"value": "CC BY 4.0"},
                "LicenseUrl": {"value": "https://creativecommons.org/licenses/by/4.0"},
                "Artist": {"value": '<a href="//x">Ann &amp; Bob</a>\n'},
            },
        }
        return {"title": title, "imageinfo": [info]}

    def answer(query):
        if "gsroffset" in query:
            assert query["continue"] == ["gsroffset||"]
            return as_json({"query": {"pages": [page("second")]}})
        further = {"gsroffset": 50, "continue": "gsroffset||"}
        no_licence = {"title": "third", "imageinfo": [{"url": server.photo("third"), "extmetadata": {}}]}
        return as_json({"continue": further, "query": {"pages": [page("first"), no_licence]}})

    server.answers["/w/api.php"] = answer
    gather(tmp_path, {"circle": "a circle"}, CONTACT, per_label=5, sources=("commons",))
    first, second = manifest(tmp_path)
    assert first["author"] == "Ann & Bob" and first["licence"] == "CC BY 4.0"
    assert second["page"] == "https://commons.example/second"


def test_every_label_is_asked_of_every_source_for_the_same_number(server, tmp_path):
    server.openverse(*(result(server.photo(f"photo{number}")) for number in range(8)))
    server.answers["/w/api.php"] = as_json({"query": {"pages": []}})
    labels = {"braun bär": "braun", "日本": "japan"}
    gather(tmp_path, labels, CONTACT, per_label=4)
    taken = [(row["label"], row["source"]) for row in manifest(tmp_path)]
    assert taken == [("braun bär", "openverse")] * 2 + [("日本", "openverse")] * 2
    assert len(server.asked("/w/api.php")) == 2


def observation(number: int, *photos: dict) -> dict:
    return {"id": number, "uri": f"https://inat.example/{number}", "photos": photos}


def test_inaturalist_licences_are_those_of_the_photo(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INATURALIST", f"{server.url}/v1/observations")
    photos = [
        {"url": server.photo("square.png"), "license_code": "cc-by", "attribution": "(c) Ann"},
        {"url": server.photo("other.png"), "license_code": "cc-by-nc", "attribution": "(c) Bob"},
    ]
    server.answers["/v1/observations"] = as_json({"total_results": 1, "results": [observation(1, *photos)]})
    server.answers["/medium.png"] = server.answers["/square.png"]
    gather(tmp_path, {"circle": 41638}, CONTACT, per_label=5, sources=("inaturalist",))
    (row,) = manifest(tmp_path)
    assert row["url"].endswith("/medium.png") and row["licence"] == "cc-by" and row["author"] == "(c) Ann"
    assert row["licence_url"] == "https://creativecommons.org/licenses/by/4.0/"
    _, query, headers, _ = server.asked("/v1/observations")[0]
    assert query["taxon_id"] == ["41638"] and query["quality_grade"] == ["research"]
    assert query["photo_license"] == ["cc0,cc-by,cc-by-sa"]
    assert CONTACT in headers["User-Agent"]


def test_inaturalist_is_asked_for_what_is_older_than_the_last_page(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INATURALIST", f"{server.url}/v1/observations")

    def answer(query):
        below = int(query.get("id_below", ["1000"])[0])
        numbers = range(below - 1, below - 1 - (200 if below == 1000 else 3), -1)
        results = [observation(number) for number in numbers]
        if below != 1000:
            photo = {"url": server.photo("old.png"), "license_code": "cc0", "attribution": "(c) Ann"}
            results[1] = observation(numbers[1], photo)
        return as_json({"results": results})

    server.answers["/v1/observations"] = answer
    gather(tmp_path, {"circle": 41638}, CONTACT, per_label=5, sources=("inaturalist",))
    assert [row["page"] for row in manifest(tmp_path)] == ["https://inat.example/798"]
    pages = [query.get("id_below") for _, query, *_ in server.asked("/v1/observations")]
    assert pages == [None, ["800"]]


@pytest.mark.parametrize(
    "labels, options, sentence",
    [
        ({"a/b": "words"}, {}, "'a/b' cannot be the name of a folder"),
        ({"..": "words"}, {}, "cannot be the name of a folder"),
        ({"": "words"}, {}, "cannot be the name of a folder"),
        ({"circle": "words"}, {"contact": " "}, "Set `contact`"),
        ({"circle": "words"}, {"contact": "日本"}, "Set `contact`"),
        ({"circle": "words"}, {"sources": ("bing",)}, "There is no source bing"),
        ({"circle": "words"}, {"sources": ("inaturalist",)}, "the number of a taxon"),
        ({"circle": "words"}, {"sources": ("ddgs",)}, "pip install ddgs"),
    ],
)
def test_arguments_that_cannot_work(server, tmp_path, monkeypatch, labels, options, sentence):
    monkeypatch.setitem(sys.modules, "ddgs", None)
    with pytest.raises(TrainingError, match=sentence):
        gather(tmp_path, labels, **{"contact": CONTACT} | options)
    assert not server.requests
