"""The dashboard in a real browser: it shows the study, has our pictures attached, opens by its token, and texts in it stay texts."""

from __future__ import annotations

import dataclasses
import json
import urllib.request

import pytest
from filled import filled_store
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial
from optuna_dashboard import save_note
from optuna_dashboard._note import save_note_with_version
from serving import dashboard

from tuner.results.plots_html import front_html, schedules_figure
from tuner.results.stored import study_front
from tuner.serving.dashboard import CARD_PX, attach_plots
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

TOKEN = "a-token-of-the-users-own"
# A title that reads "run" gives away a script that was.
EVIL = (
    "<img src=x onerror=\"document.title='run'\"></script><script>document.title='run'</script><svg onload=\"document.title='run'\">"
    " [link](javascript:document.title='run') <a href=\"javascript:document.title='run'\">link</a> '; DROP TABLE trials; --"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    storage = open_storage(f"sqlite:///{folder / 'tuner.db'}")
    filled_store(storage, 10)
    evil = filled_store(storage, 2, name="evil")
    save_note(evil.study, f"study {EVIL}")
    # Version 2: each trial has a note of ours.
    save_note_with_version(storage, evil.study_id, evil.study.get_trials()[0]._trial_id, 2, f"trial {EVIL}")
    distribution = CategoricalDistribution([EVIL])
    evil.study.add_trial(
        create_trial(values=[0.1, 0.9], params={EVIL[:80]: EVIL}, distributions={EVIL[:80]: distribution}, user_attrs={EVIL: EVIL})
    )
    storage.engine.dispose()
    return folder


@pytest.fixture(scope="module")
def served(folder):
    """URL of the study's page on a dashboard as it is by default."""
    with dashboard(folder) as (_, url):
        yield url


def answer(url):
    with urllib.request.urlopen(url, timeout=20) as found:
        return json.load(found)


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


def test_a_browser_shows_the_study_with_our_front(served, browser, tmp_path):
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
    page.close()
    assert (tmp_path / "dashboard.png").stat().st_size > 10_000


def test_a_link_in_another_site_opens_the_study_and_leaves_the_token_behind(served, folder, browser):
    page = browser.new_page()
    with dashboard(folder, TUNER_DASHBOARD_TOKEN=TOKEN) as (_, url):
        # For a browser, localhost and 127.0.0.1 are two sites.
        page.goto(served.replace("127.0.0.1", "localhost"))
        page.evaluate(f"location.href = '{url.replace('...', TOKEN)}'")
        page.wait_for_url(url.partition("?")[0], timeout=60_000)
        page.wait_for_selector("text=tiny", timeout=60_000)
        assert page.evaluate("document.cookie") == ""
        page.close()


@pytest.mark.parametrize(
    ("path", "shown"),
    [("", "'; DROP TABLE trials; --"), ("/note", "study <img src=x onerror="), ("/trials?numbers=0", "trial <img src=x onerror="),
     ("/trials?numbers=2", "'; DROP TABLE trials; --")],
)  # fmt: skip
def test_notes_parameters_and_attributes_of_strangers_are_texts(served, browser, path, shown):
    page = browser.new_page()
    page.goto(f"{served.rpartition('/')[0]}/2{path}")
    page.wait_for_function("text => document.body.innerText.includes(text)", arg=shown, timeout=60_000)
    for link in page.get_by_text("link", exact=True).all():
        link.click()
    check_nothing_ran(page)


def test_the_exported_page_shows_texts_of_strangers_as_texts(folder, browser, tmp_path):
    results = study_front(StudyStore.load(open_storage(f"sqlite:///{folder / 'tuner.db'}"), "tiny"))
    trials = [dataclasses.replace(trial, params=trial.params | {"epochs": EVIL}, device=EVIL) for trial in results.completed]
    (tmp_path / "front.html").write_text(front_html(dataclasses.replace(results, completed=trials, model=EVIL, study=EVIL)))
    page = browser.new_page()
    page.goto((tmp_path / "front.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.evaluate("Plotly.Fx.hover('front', [{curveNumber: 2, pointNumber: 0}])")
    assert EVIL in page.wait_for_selector("g.hovertext").text_content()
    assert page.title() == page.inner_text("h1") == EVIL
    assert EVIL in page.inner_text("p >> nth=0")
    assert EVIL in page.inner_text("td >> nth=5")
    check_nothing_ran(page)


def check_nothing_ran(page):
    assert page.evaluate("document.querySelectorAll('img[src=x], svg[onload], [href^=\"javascript:document\"]').length") == 0
    assert page.title() != "run"
    page.close()
