"""The dashboard in a real browser: it listens on loopback, shows the study and has our pictures attached."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from filled import filled_store

from tuner.dashboard import CARD_PX, attach_plots
from tuner.plots_html import schedules_figure
from tuner.results import study_front
from tuner.storage import open_storage

TUNER = Path(sys.executable).parent / "tuner"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL of the study's page, host and port) of a running dashboard."""
    folder = tmp_path_factory.mktemp("dashboard")
    filled_store(open_storage(f"sqlite:///{folder / 'tuner.db'}"), 10).storage.engine.dispose()
    process = subprocess.Popen([TUNER, "dashboard", "tiny", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    yield re.search(r"http://\S+", line).group()
    process.terminate()
    process.communicate(timeout=20)


def answer(url):
    with urllib.request.urlopen(url, timeout=20) as found:
        return json.load(found)


def test_it_listens_on_loopback_only(served):
    assert served.startswith("http://127.0.0.1:")


def test_our_pictures_are_attached(served):
    base, study_id = served.split("/dashboard/studies/")
    study = answer(f"{base}/api/studies/{study_id}")
    pictures = {picture["id"]: json.loads(picture["graph_object"]) for picture in study["plotly_graph_objects"]}
    assert set(pictures) == {"front", "schedules"}
    names = {trace.get("name", "") for trace in pictures["front"]["data"]}
    assert any("full resolution" in name for name in names)
    assert study["objective_names"] == ["relative_time", "val_accuracy"]


def test_attaching_twice_replaces(tmp_path):
    store = filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 6)
    attach_plots(store)
    before = store.storage.get_study_system_attrs(store.study_id).keys()
    attach_plots(store)
    assert store.storage.get_study_system_attrs(store.study_id).keys() == before


def test_the_strips_that_fit_into_a_card_span_the_front(tmp_path):
    results = study_front(filled_store(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), 10))
    numbers = [trial.number for trial in results.front]
    assert len(numbers) == 7
    card, page = schedules_figure(results, CARD_PX), schedules_figure(results)
    pictured = [[int(note.text.split(":")[0].removeprefix("trial ")) for note in figure.layout.annotations] for figure in (card, page)]
    assert pictured == [[numbers[place] for place in (0, 2, 4, 6)], numbers]
    assert card.layout.height == CARD_PX
    assert "4 of 7" in card.layout.title.text


def test_a_browser_shows_the_study_with_our_front(served, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: install Debian's package chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 1600})
        page.goto(served)
        page.wait_for_selector("text=tiny", timeout=60_000)
        page.wait_for_selector(".js-plotly-plot", timeout=60_000)
        page.wait_for_function(
            "document.body.innerText.includes('shorter full resolution') || document.querySelectorAll('.js-plotly-plot').length >= 2"
        )
        # A card cuts off what is higher than itself.
        cut_off = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.querySelector('.main-svg')"
            ".getBoundingClientRect().bottom > plot.closest('.MuiCard-root, .MuiPaper-root').getBoundingClientRect().bottom).length"
        )
        assert cut_off == 0
        page.screenshot(path=tmp_path / "dashboard.png", full_page=True)
        browser.close()
    assert (tmp_path / "dashboard.png").stat().st_size > 10_000
