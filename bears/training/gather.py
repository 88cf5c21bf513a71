"""Search words in, licensed photos in label folders out, with a manifest of where each came from.

The sources need no key and state a licence for each photo. Each is asked at the pace it asks for, and one photo is
fetched at a time. What they answer is hostile until it has been through `bears.photos`.
"""

import csv
import errno
import hashlib
import html
import io
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests
from fastprogress.fastprogress import progress_bar
from PIL import Image
from requests_ratelimiter import LimiterAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from bears.files import write_whole
from bears.photos import FORMATS, MAX_BYTES, PhotoError, open_photo
from bears.training import TrainingError
from bears.training.layouts import OURS

OPENVERSE = "https://api.openverse.org/v1/images/"  # https://api.openverse.org
COMMONS = "https://commons.wikimedia.org/w/api.php"  # https://www.mediawiki.org/wiki/API:Imageinfo
INATURALIST = "https://api.inaturalist.org/v1/observations"
INATURALIST_LICENCES = {"cc0": "publicdomain/zero/1.0", "cc-by": "licenses/by/4.0", "cc-by-sa": "licenses/by-sa/4.0"}
MANIFEST = "manifest.csv"
COLUMNS = "file label sha256 source page author licence licence_url bytes width height url".split()

TIMEOUT = (10, 30)  # seconds: to connect, and between two pieces of an answer
PATIENCE = 60  # seconds for one photo or one answer, however steadily it drips
LONGEST_WAIT = 120  # seconds; a Retry-After beyond that (a day's quota is used up) ends the run instead
PER_SECOND = 1  # requests to one host
OPENVERSE_PER_MINUTE = 20  # what it allows to those without a key


@dataclass(frozen=True)
class Found:
    """A photo that a source offers."""

    urls: tuple[str, ...]  # the first that answers is taken
    page: str  # where a person can look at it
    author: str
    licence: str  # an SPDX-like short name: "by-sa 4.0"
    licence_url: str


def gather(
    folder: str | os.PathLike,
    labels: dict[str, str | int],  # label: search words, or for iNaturalist the number of the taxon
    contact: str,  # an e-mail address or a web page, for the User-Agent
    per_label: int = 200,
    sources: tuple[str, ...] = ("openverse", "commons"),
) -> list[tuple[str, str]]:
    """Fetch photos into `folder`/label until there are `per_label` of each; (URL, why) of those that were of no use.

    Every label is asked of every source, for the same number, or the classifier would learn to tell the sources apart.
    A folder that has anything in it but no manifest is somebody's own and left alone, and without `contact` so is every
    folder that has photos. A run that was interrupted goes on where it stopped. Raises `TrainingError` when it cannot.
    """
    folder = Path(folder)
    ours = (folder / MANIFEST).exists()
    loose = (path for path in folder.glob("[!.]*") if path.is_file() and path.name not in OURS)
    if any(itertools.chain(loose, folder.glob("[!.]*/[!.]*"))) and not (ours and contact.strip()):
        return []
    contact = _in_ascii(contact)
    _check_arguments(labels, contact, sources)
    _start_manifest(folder)
    manifest = _read_manifest(folder)
    have = Counter((row["label"], row["source"]) for row in manifest)
    known = {row["url"] for row in manifest} | {row["page"] for row in manifest} - {""}
    digests = {row["sha256"] for row in manifest}
    session, skipped = _session(contact), []
    quota = -(-per_label // len(sources))
    for (label, words), source in itertools.product(labels.items(), sources):
        if (missing := quota - have[label, source]) <= 0:
            continue
        offers = _new(SOURCES[source](session, words), known, source)
        rows = _fetched(session, offers, folder / label, digests, skipped)
        for row in progress_bar(itertools.islice(rows, missing), total=missing, leave=False):
            _append(folder, {"label": label, "source": source} | row)
            have[label, source] += 1
    if empty := [label for label in labels if not any(have[label, source] for source in sources)]:
        words = ", ".join(f"{labels[label]!r} ({label})" for label in empty)
        raise TrainingError(f"Nothing was found for {words} in {', '.join(sources)}. Try other search words.")
    return skipped


def gathered_from(folder: str | os.PathLike) -> str:
    """From which sources the photos in `folder` are, in a sentence; empty, if nobody gathered them."""
    if not (Path(folder) / MANIFEST).exists():
        return ""
    count = Counter(row["source"] for row in _read_manifest(Path(folder)))
    return "They were gathered from " + ", ".join(f"{name} ({count[name]:,})" for name in sorted(count)) + "."


def _check_arguments(labels, contact, sources) -> None:
    if unknown := [source for source in sources if source not in SOURCES]:
        raise TrainingError(f"There is no source {', '.join(unknown)}. There are {', '.join(SOURCES)}.")
    if not contact.strip() or not contact.isascii() or not contact.isprintable():  # it goes into a header
        raise TrainingError(
            "Set `contact` to an e-mail address or a web page of yours, without umlauts and the like before the @: the "
            "sources ask for one, to write to before they block. Or put photos of your own into the folder."
        )
    for label, words in labels.items():
        if not label.strip() or label.startswith(".") or set(label) & set('/\\:*?"<>|\0'):
            raise TrainingError(f"The label {label!r} cannot be the name of a folder. Leave out slashes and the like.")
        for source in sources:
            if isinstance(words, int) != (source == "inaturalist"):
                raise TrainingError(
                    f"{source} cannot look for {words!r} ({label}): iNaturalist wants the number of a taxon, as in "
                    "inaturalist.org/taxa/41638, the others want words. Choose sources that have every label."
                )


def _in_ascii(contact: str) -> str:
    """With its domain as the internet writes it, müller.example as xn--mller-kva.example, and a page's path quoted."""
    contact = contact.strip()
    try:
        if "://" in contact:
            page = urlsplit(contact)
            page = page._replace(netloc=page.netloc.encode("idna").decode(), path=quote(page.path, safe="/%~"))
            return page._replace(query=quote(page.query, safe="=&%")).geturl()
        name, at, domain = contact.rpartition("@")
        return name + at + domain.encode("idna").decode() if at else contact
    except ValueError:  # no domain; what is wrong with it is said later
        return contact


class _Retry(Retry):
    """Waits as long as Retry-After says, but `LONGEST_WAIT` at most; urllib3's own way to say so came with 2.6.3."""

    def get_retry_after(self, response) -> float | None:
        seconds = super().get_retry_after(response)
        return seconds and min(seconds, LONGEST_WAIT)


def _session(contact: str) -> requests.Session:
    """One that waits between requests to a host, tries again, and does as Retry-After says."""
    retry = _Retry(total=3, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
    session = requests.Session()
    session.headers["User-Agent"] = f"bears ({contact}) requests/{requests.__version__}"
    for prefix in ("https://", "http://"):
        session.mount(prefix, LimiterAdapter(per_second=PER_SECOND, per_host=True, max_retries=retry))
    # its searches; its thumbnails are at /v1/images/ID/thumb/
    session.mount(f"{OPENVERSE}?", LimiterAdapter(per_minute=OPENVERSE_PER_MINUTE, max_retries=retry))
    return session


def _new(offers: Iterator[Found], known: set[str], source: str) -> Iterator[Found]:
    """Those that are not there yet."""
    try:
        for offer in offers:
            if known.isdisjoint({*offer.urls, offer.page}):
                known |= {*offer.urls}
                yield offer
    except (AttributeError, KeyError, TypeError) as error:
        raise TrainingError(f"{source} answered in another shape than it documents ({error}).") from error


# The sources


def _ask(session: requests.Session, url: str, parameters: dict) -> dict:
    host = url.split("/")[2]
    try:
        with session.get(url, params=parameters, timeout=TIMEOUT, stream=True) as response:
            content = _read(response)
    except requests.RequestException as error:
        raise TrainingError(
            f"{host} cannot be reached ({type(error).__name__}). Is there internet? Run this again to go on, or put "
            "photos of your own into the folder."
        ) from error
    if response.status_code == 429:
        raise TrainingError(f"{host} asks to come back later: its limit is used up. Run this again then; it goes on.")
    try:
        response.raise_for_status()
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError("not an object")
        return answer
    except (requests.RequestException, ValueError) as error:
        raise TrainingError(f"{host} answered {response.status_code} and nothing that can be used.") from error


def openverse(session: requests.Session, words: str) -> Iterator[Found]:
    """https://api.openverse.org/v1/#tag/images"""
    for page in range(1, 13):  # anonymous visitors get 12 pages of 20
        query = {"q": f'"{words}"', "license": "by,by-sa,cc0,pdm", "page_size": 20, "page": page}
        results = _ask(session, OPENVERSE, query).get("results") or []
        for result in results:
            yield Found(
                urls=tuple(filter(None, (result.get("thumbnail"), result.get("url")))),
                page=result.get("foreign_landing_url") or "",
                author=result.get("creator") or "",
                licence=f"{result.get('license')} {result.get('license_version') or ''}".strip(),
                licence_url=result.get("license_url") or "",
            )
        if len(results) < 20:
            return


def commons(session: requests.Session, words: str) -> Iterator[Found]:
    """https://commons.wikimedia.org/wiki/Commons:API"""
    query = {
        "action": "query",
        "format": "json",
        "formatversion": 2,
        "generator": "search",
        "gsrsearch": f'filetype:bitmap "{words}"',
        "gsrnamespace": 6,
        "gsrlimit": 50,
        "prop": "imageinfo",
        "iiprop": "url|size|mime|extmetadata",
        "iiurlwidth": 500,
    }
    further = {}
    for _ in range(40):
        answer = _ask(session, COMMONS, query | further)
        for page in answer.get("query", {}).get("pages", []):
            for info in page.get("imageinfo", []):
                stated = {key: entry.get("value", "") for key, entry in (info.get("extmetadata") or {}).items()}
                if not stated.get("LicenseShortName"):
                    continue
                yield Found(
                    urls=tuple(filter(None, (info.get("thumburl"), info.get("url")))),
                    page=info.get("descriptionurl", ""),
                    author=stated.get("Artist", ""),
                    licence=stated["LicenseShortName"],
                    licence_url=stated.get("LicenseUrl", ""),
                )
        further = answer.get("continue")
        if not further:
            return


def inaturalist(session: requests.Session, taxon: int) -> Iterator[Found]:
    """https://api.inaturalist.org/v1/docs/#!/Observations/get_observations"""
    query = {
        "taxon_id": taxon,
        "quality_grade": "research",
        "photos": "true",
        "photo_license": ",".join(INATURALIST_LICENCES),
        "order_by": "id",  # newest first; of pages in any other order there are no more than 10,000 observations
        "order": "desc",
        "per_page": 200,
    }
    for _ in range(50):
        results = _ask(session, INATURALIST, query)["results"]
        for observation in results:
            for photo in observation.get("photos") or []:
                if (code := photo.get("license_code")) in INATURALIST_LICENCES:  # one photo of several has to have it
                    yield Found(
                        urls=(photo["url"].replace("/square.", "/medium."),),
                        page=observation.get("uri", ""),
                        author=photo.get("attribution", ""),
                        licence=code,
                        licence_url=f"https://creativecommons.org/{INATURALIST_LICENCES[code]}/",
                    )
        if len(results) < query["per_page"]:
            return
        query["id_below"] = results[-1]["id"]


def ddgs(session: requests.Session, words: str) -> Iterator[Found]:
    """An image search, for private study: it states no licence, so nothing made from it should be published."""
    try:
        from ddgs import DDGS
    except ImportError:
        raise TrainingError("The source ddgs needs a package that is not installed. Run: pip install ddgs") from None
    try:
        results = DDGS().images(words, max_results=500)
    except Exception as error:  # of its own kinds, differing by version
        raise TrainingError(f"ddgs found nothing ({type(error).__name__}). Run this again to go on.") from error
    for result in results:
        yield Found((result["image"],), result.get("url", ""), "", "unknown", "")


SOURCES = {"openverse": openverse, "commons": commons, "inaturalist": inaturalist, "ddgs": ddgs}


# The photos


def _fetched(session, offers: Iterator[Found], folder: Path, digests: set[str], skipped: list) -> Iterator[dict]:
    """What the manifest says of each photo, once it is in `folder`; the others are added to `skipped`."""
    for offer in offers:
        try:
            yield _fetch(session, offer, folder, digests)
        except (requests.RequestException, PhotoError) as error:
            skipped.append((offer.urls[0] if offer.urls else offer.page, str(error)))


def _fetch(session, offer: Found, folder: Path, digests: set[str]) -> dict:
    content, url = _first_photo(session, offer)
    digest = hashlib.sha256(content).hexdigest()
    if digest in digests:
        raise PhotoError("the same file is there already")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        file = folder / f"{digest[:16]}.{image.format.lower()}"
        width, height = image.size
    try:
        write_whole({file: content})
    except OSError as error:
        raise _cannot_write(file, error) from error
    digests.add(digest)
    stated = {key: _plain(getattr(offer, key)) for key in ("page", "author", "licence", "licence_url")}
    measured = {"sha256": digest, "bytes": len(content), "width": width, "height": height}
    return {"file": f"{folder.name}/{file.name}", "url": url} | stated | measured


def _first_photo(session, offer: Found) -> tuple[bytes, str]:
    """The content of the first of its addresses that has a photo, and the address."""
    failure = PhotoError("the source gives no address")
    for url in offer.urls:
        try:
            content = _download(session, url)
            open_photo(content)
            return content, url
        except (requests.RequestException, PhotoError) as error:
            failure = error
    raise failure


def _download(session: requests.Session, url: str) -> bytes:
    if not str(url).startswith(("https://", "http://")):
        raise PhotoError(f"not an address of the web: {str(url)[:80]}")
    with session.get(url, timeout=TIMEOUT, stream=True) as response:
        response.raise_for_status()
        return _read(response)


def _read(response: requests.Response) -> bytes:
    """Its body, if that comes in time and is not too large."""
    deadline, content = time.monotonic() + PATIENCE, bytearray()
    try:
        while piece := response.raw.read1(2**16, decode_content=True):  # what there is, even if it is one byte
            content += piece
            if len(content) > MAX_BYTES:
                raise requests.RequestException(f"larger than {MAX_BYTES // 2**20} MB")
            if time.monotonic() > deadline:
                raise requests.Timeout(f"not complete after {PATIENCE} seconds")
    except HTTPError as error:  # urllib3's, which requests would have translated
        raise requests.ConnectionError(error) from error
    return bytes(content)


def _plain(text: str) -> str:
    """Commons states authors as HTML, and anybody can be called anything: one line of plain text."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", str(text))).split())[:300]


def _cannot_write(file: Path, error: OSError) -> TrainingError:
    what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
    return TrainingError(f"{file} cannot be written: {what}. What was fetched before is kept; run this again to go on.")


def _start_manifest(folder: Path) -> None:
    """Before the first photo, so that an interrupted run is known as one."""
    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not manifest.exists():
            manifest.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    except OSError as error:
        raise _cannot_write(manifest, error) from error


def _read_manifest(folder: Path) -> list[dict]:
    """The rows whose photos are still there."""
    with open(folder / MANIFEST, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise TrainingError(f"{folder / MANIFEST} was not written by this version. Move it away to start anew.")
        return [row for row in reader if (folder / row["file"]).exists()]


def _append(folder: Path, row: dict) -> None:
    manifest = folder / MANIFEST
    try:
        with open(manifest, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
    except OSError as error:
        raise _cannot_write(manifest, error) from error
