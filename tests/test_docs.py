"""The documentation as a site: it builds without a broken link, fetches nothing from elsewhere, and misses no page, command or key."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import tomllib
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from typer.main import get_command

import studies
import trainers
import tuner
from studies.spec import SECTIONS
from tuner.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NAV = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]


def load_file(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs_zensical():
    if importlib.util.find_spec("zensical") is None or importlib.util.find_spec("mkdocstrings_handlers") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Zensical is not installed: make test installs it")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    needs_zensical()
    out = tmp_path_factory.mktemp("docs") / "site"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, DOCS / "build.py", "--out", out]
    built = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stderr
    return out


class Links(HTMLParser):
    """What a page links to, what it fetches, and the places in it that others can link to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.fetched, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("href"):
            self.fetched.append(given["href"])
        self.fetched += [given["src"]] if given.get("src") else []


def nav_pages(entries):
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else nav_pages(target)


def test_every_page_is_in_the_navigation_once():
    shown = sorted(nav_pages(NAV))
    assert shown == sorted(
        ["CHANGELOG.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "trainers").rglob("*.md"))]
        + [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    )


def test_the_reference_leads_on_where_it_is_read_in_the_repository():
    """What the site writes out is hidden there, and each name leads to the file that has its docstring."""
    for page in (DOCS / "reference").glob("*.md"):
        shown = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert ":::" not in shown
        assert "make docs" in shown
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    links = dict(re.findall(r"^- \[`([\w.]+)`\]\(\.\./\.\./(\S+)\)$", text, re.MULTILINE))
    assert list(links) == re.findall(r"^<!-- ::: (\S+)$", text, re.MULTILINE)
    for name, file in links.items():
        assert re.search(rf"^(class|def) {name.rpartition('.')[2]}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_link_leads_to_a_page_and_every_anchor_to_a_place(site):
    pages = {path: Links(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            url = urlsplit(link)
            # The page of a missing page is served from any folder.
            if url.scheme or url.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids):
                broken.append((path.name, link))
    assert len(pages) > 30
    assert broken == []


def test_no_page_fetches_from_another_host(site):
    # Mentions in scripts are of parts that the site doesn't use; what a browser asks for is looked at below.
    for path in site.rglob("*.html"):
        assert [url for url in Links(path).fetched if urlsplit(url).netloc] == [], path.name
    for path in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", path.read_text(encoding="utf-8")) == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing of it."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_in_a_browser_pages_fit_a_phone_and_search_finds_without_other_hosts(served, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index", "tutorial", "howto/sampler-and-stopper", "reference/study-file", "reference/python", "steps"):
        page.goto(f"{served}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{served}/index.html")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("combobox", name="Search").fill("generations")
    page.locator("mark", has_text="generations").first.wait_for(timeout=20_000)
    page.close()
    assert set(asked) == {urlsplit(served).netloc}
    assert errors == []


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path, monkeypatch, capfd):
    needs_zensical()
    build = load_file(DOCS / "build.py")
    gather = build.gather

    def with_a_broken_link(pages):
        gather(pages)
        (pages / "compile.md").write_text("# Compiled\n\n[nowhere](howto/nowhere.md)\n", encoding="utf-8")

    monkeypatch.setattr(build, "gather", with_a_broken_link)
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path)
    assert "compile.md" in "".join(capfd.readouterr())


def test_the_reference_has_every_command_key_and_public_name(site):
    commands = Links(site / "reference/command-line.html").ids
    assert {f"tuner-{name}" for name in get_command(app).commands} <= commands
    page = (site / "reference/study-file.html").read_text(encoding="utf-8")
    assert set(SECTIONS[""]) <= Links(site / "reference/study-file.html").ids
    for section, keys in SECTIONS.items():
        for key in keys if section else ():
            assert f"<td><code>{key}</code></td>" in page, f"{section}.{key}"
    places = Links(site / "reference/python.html").ids
    wanted = {f"trainers.{name}" for name in trainers.__all__} | {f"tuner.{name}" for name in tuner.__all__}
    wanted |= {f"studies.{name}" for name in studies.__all__} | {"trainers.lightning.DownsamplingCallback"}
    assert wanted <= places


def test_a_docstring_that_explains_a_name_a_line_becomes_a_list():
    if importlib.util.find_spec("griffe") is None:
        needs_zensical()
    with_lists = load_file(DOCS / "docstring_lists.py").with_lists
    assert with_lists("One.\n\na: first,\n    and more.\nb, c: others.") == "One.\n\n- **a**: first,\n    and more.\n- **b, c**: others."
    # A paragraph that only begins so, and one of one line, stay what they are.
    for text in ("One.\n\na: first. b:\nsecond", "One.\n\na: first."):
        assert with_lists(text) == text
