"""The dashboard in a real browser: our page as the study changes, Optuna's with our pictures attached, and texts that stay texts."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
import urllib.request

import pytest
from filled import filled_store, pricing, record, tiny_spec
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import create_trial
from optuna_dashboard import save_note, save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import save_note_with_version
from playwright.sync_api import expect
from serving import asked, dashboard, site

from tuner.results.plots_html import front_html, schedules_figure
from tuner.results.stored import study_front
from tuner.serving import live
from tuner.serving.attached import CARD_PX, attach_plots
from tuner.serving.live import NOTHING_YET
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.owner import this_owner
from tuner.storage.rows import OWNER
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


def pictured(served):
    """The study as Optuna's dashboard has it once our pictures are in it, which are drawn after the start."""
    deadline = time.monotonic() + 60
    while len((study := answer(f"{served}api/studies/1"))["plotly_graph_objects"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return study


def test_our_pictures_are_attached(served):
    study = pictured(served)
    pictures = {picture["id"]: json.loads(picture["graph_object"]) for picture in study["plotly_graph_objects"]}
    assert set(pictures) == {"front", "schedules"}
    names = {trace.get("name", "") for trace in pictures["front"]["data"]}
    assert any("full resolution" in name for name in names)
    assert study["objective_names"] == ["relative_time", "val_accuracy"]


def test_attaching_twice_replaces(storage_url):
    store = filled_store(open_storage(storage_url), 6)
    attach_plots(store)
    before = store.storage.get_study_system_attrs(store.study_id)
    # As Optuna's own way to attach a larger picture leaves it.
    save_plotly_graph_object(store.study, schedules_figure(study_front(store)), graph_object_id="front")
    attach_plots(store)
    assert store.storage.get_study_system_attrs(store.study_id) == before
    pictures = get_plotly_graph_objects(before)
    assert json.loads(pictures["schedules"]) == json.loads(schedules_figure(study_front(store), CARD_PX).to_json())


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
    pictured(served)
    page = browser.new_page(viewport={"width": 1400, "height": 1600})
    page.goto(served)
    page.get_by_role("link", name="Optuna's dashboard").click()
    page.wait_for_url("**/dashboard/studies/1", timeout=60_000)
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
    page.goto(f"{served}dashboard/studies/2{path}")
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


# -- our page while the study changes


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in ("LOOK_S", "PAUSE_S"):
        monkeypatch.setattr(live, name, 0.1)
    store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), tiny_spec())
    yield store
    store.storage.engine.dispose()


@pytest.fixture
def tab(browser):
    """A new tab. It must have asked nobody else and said nothing on the console by the end of the test."""
    said, asked_for = [], set()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked_for.add(re.sub(r"^http://[^/]+/", "/", request.url)))
    yield tab
    assert said == []
    assert asked_for <= {"/", "/live.json", "/study.json"}
    context.close()


def polled(tab):
    """Asks now instead of in a few seconds."""
    tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def born(store, **fixed):
    space = distributions(store.spec.search)
    return store.create_trial(fixed=fixed, distributions=space, sampler=RandomSampler(seed=1), rival=None)


def ended(store, claimed, accuracy):
    values, stored = pricing(store.spec).values(record(store.spec, claimed.params, claimed.number, accuracy), alone=False)
    assert store.complete(claimed.number, values, stored)


def selected(tab):
    return [int(card.get_attribute("data-number")) for card in tab.locator("#cards .card").all()]


def focus(tab):
    return tab.evaluate("[document.activeElement.ariaLabel, document.activeElement.getBoundingClientRect().top]")


def test_a_running_trial_is_shown_and_joins_the_front_as_it_ends(store, tab):
    filled_store(store.storage, 10)
    # As the baseline, which it beats: a row of the table comes, one goes.
    claimed, other = born(store, epochs=4, frequency=0.0), born(store)
    # Two rows of running trials, of which one is left.
    dead, *_ = [born(store) for _ in range(3)]
    store.storage.set_trial_user_attr(dead.trial_id, OWNER, this_owner() | {"started": 1})
    store.set_attr("asked", 30)
    store.beat([claimed.number], {claimed.number: (0.25, 0.555)})
    with site(store) as url:
        tab.goto(url)
        expect(tab.locator("#running article")).to_have_count(5)
        expect(tab.locator(f'#running [data-number="{claimed.number}"]')).to_contain_text("2 of 4 epochs, 55.50 % validation accuracy")
        expect(tab.locator(f'#running [data-number="{other.number}"]')).to_contain_text("handed out, none of")
        expect(tab.locator("#running .stale")).to_have_count(1)
        expect(tab.locator(f'#running .stale[data-number="{dead.number}"]')).to_contain_text("is gone; the next launch goes on with it")
        expect(tab.locator("#launch")).to_contain_text(
            "1 trial is running, 3 more are handed out and have told no epoch yet. 1 trial is stale. 10 of 30 trials are finished"
        )
        expect(tab.locator("#counts")).to_contain_text("10 completed trials, 1 running, 3 handed out, 1 stale;")
        assert tab.evaluate("scrollY") == 0
        chosen = [int(point.get_attribute("data-number")) for point in tab.locator(".point.front[data-number]").all()][:2]
        tab.locator(f'.point[data-number="{chosen[0]}"]').click()
        tab.locator(f'.point[data-number="{chosen[1]}"]').click(modifiers=["Shift"])
        tab.fill("#least-accuracy", "1")
        tab.locator(f'.card[data-number="{chosen[1]}"] summary').last.click()
        tab.locator("#table button").first.focus()
        before = focus(tab)
        assert before[0].startswith("Show trial")

        ended(store, claimed, 0.99)
        polled(tab)
        tab.locator(f'.point[data-number="{claimed.number}"]').wait_for(state="attached", timeout=20_000)
        expect(tab.locator("#running article")).to_have_count(4)
        expect(tab.locator("#counts")).to_contain_text("11 completed trials, 3 handed out, 1 stale;")
        expect(tab.locator("#table")).to_contain_text("99.00 %")
        assert selected(tab) == chosen
        assert tab.locator("#least-accuracy").input_value() == "1"
        assert tab.locator(f'.card[data-number="{chosen[1]}"] details[open]').count() == 1
        after = focus(tab)
        assert after[0] == before[0]
        # What stands above has another height now; browsers scroll by whole pixels.
        assert abs(after[1] - before[1]) < 2
        tab.get_by_role("button", name=f"Remove trial {chosen[0]}").click()
        tab.get_by_role("button", name=f"Remove trial {chosen[1]}").click()
        store.fail(other.number, "error", "it broke")
        polled(tab)
        expect(tab.locator("#counts")).to_contain_text("1 failed attempt;", timeout=20_000)
        # Who has put everything away is not given something else.
        assert selected(tab) == []


def test_a_study_without_a_completed_trial_comes_alive(store, tab):
    with site(store) as url:
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text(NOTHING_YET)
        expect(tab.locator("h1")).to_have_text("tiny")
        expect(tab.locator("#launch")).to_contain_text("No trial is running.")
        expect(tab.locator("#front")).to_be_hidden()
        ended(store, born(store, epochs=4, frequency=0.5), 0.8)
        polled(tab)
        expect(tab.locator("#front .point.front[data-number]")).to_have_count(1, timeout=20_000)
        expect(tab.locator("#state")).to_have_text("")
        assert selected(tab) == [0]
        # Nothing has been selected by the reader, so the front's best is.
        ended(store, born(store, epochs=4, frequency=1.0), 0.9)
        polled(tab)
        expect(tab.locator('#cards .card[data-number="1"]')).to_be_attached(timeout=20_000)
        assert selected(tab) == [1]
        tab.fill("#trial-number", "0")
        tab.keyboard.press("Enter")
        ended(store, born(store, epochs=4, frequency=0.75), 0.95)
        polled(tab)
        expect(tab.locator('.point[data-number="2"]')).to_be_attached(timeout=20_000)
        assert selected(tab) == [0]


def test_old_results_never_stand_beside_a_newer_list_of_what_runs(store, tab, monkeypatch):
    gate, genuine = threading.Event(), live.study_document
    gate.set()
    monkeypatch.setattr(live, "PAUSE_S", 1000.0)
    monkeypatch.setattr(live, "study_document", lambda store: gate.wait(20) and genuine(store))
    ended(store, born(store), 0.8)
    with site(store) as url:
        deadline = time.monotonic() + 60
        while not json.loads(asked(url, "/live.json")[2])["document"]:
            assert time.monotonic() < deadline
        gate.clear()
        ended(store, born(store), 0.85)
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text("What has ended meanwhile is being read.")
        expect(tab.locator("#launch")).to_have_text("No trial is running. 2 trials are finished.")
        expect(tab.locator("#front")).to_be_hidden()
        gate.set()
        expect(tab.locator("#counts")).to_contain_text("2 completed trials", timeout=20_000)
        expect(tab.locator("#state")).to_have_text("")
        # While the page is open there is a pause between two reads, and the page tells one number.
        ended(store, born(store), 0.9)
        time.sleep(live.LOOK_S)
        polled(tab)
        expect(tab.locator("#launch")).to_have_text("No trial is running. 2 trials are finished; 1 more is being read.")
        expect(tab.locator("#counts")).to_contain_text("2 completed trials")


def test_a_server_that_went_away_is_said_until_it_is_back(store, browser):
    tab = browser.new_page()
    with site(store) as url:
        tab.clock.install()
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text(NOTHING_YET)
        tab.route("**/live.json", lambda route: route.fulfill(status=401))
        tab.clock.run_for(4000)
        expect(tab.locator("#state")).to_contain_text("wants its token again")
        tab.unroute("**/live.json")
        tab.route("**/live.json", lambda route: route.fulfill(status=200, body="cut"))
        tab.clock.run_for(4000)
        expect(tab.locator("#state")).to_contain_text("The server doesn't answer")
        tab.unroute("**/live.json")
        tab.clock.run_for(4000)
        expect(tab.locator("#state")).to_have_text(NOTHING_YET)
    tab.close()


def test_a_hidden_tab_asks_nothing_and_one_that_is_seen_again_asks_at_once(store, tab):
    with site(store) as url:
        tab.clock.install()
        tab.goto(url)
        expect(tab.locator("#state")).to_have_text(NOTHING_YET)
        tab.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        requests = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.clock.run_for(30_000)
        assert requests == []
        with tab.expect_request("**/live.json"):
            tab.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")


def test_what_has_not_changed_is_not_sent_again(store):
    ended(store, born(store), 0.8)
    with site(store) as url:
        deadline = time.monotonic() + 60
        while asked(url, "/study.json")[0] == 404:
            assert time.monotonic() < deadline
            asked(url, "/live.json")
        tags = {}
        for path in ("/", "/live.json", "/study.json"):
            status, headers, text = asked(url, path)
            assert (status, headers["Cache-Control"]) == (200, "private, no-cache")
            assert text
            tags[path] = headers["ETag"]
            status, headers, text = asked(url, path, **{"If-None-Match": headers["ETag"]})
            assert (status, text) == (304, "")
        assert json.loads(asked(url, "/live.json")[2])["document"] == tags["/study.json"]
        ended(store, born(store), 0.9)
        while asked(url, "/study.json", **{"If-None-Match": tags["/study.json"]})[0] == 304:
            assert time.monotonic() < deadline
            asked(url, "/live.json")
        assert asked(url, "/", **{"If-None-Match": tags["/"]})[0] == 304


def test_our_page_runs_its_own_script_only_and_asks_its_own_server_only(store, browser):
    claimed = born(store)
    store.storage.set_trial_user_attr(claimed.trial_id, OWNER, {"host": EVIL, "pid": EVIL})
    with site(store) as url:
        policy = dict(part.split(" ", 1) for part in asked(url, "/")[1]["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["script-src"])
        assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["style-src"])
        tab = browser.new_page()
        tab.goto(url)
        expect(tab.locator("#running")).to_contain_text("<img src=x onerror")
        tab.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = \"run\"'}))")
        other = url.replace("127.0.0.1", "localhost")
        assert tab.evaluate(f"fetch('{other}live.json', {{mode: 'no-cors'}}).then(() => 'sent', () => 'refused')") == "refused"
        check_nothing_ran(tab)


def check_nothing_ran(page):
    assert page.evaluate("document.querySelectorAll('img[src=x], svg[onload], [href^=\"javascript:document\"]').length") == 0
    assert page.title() != "run"
    page.close()
