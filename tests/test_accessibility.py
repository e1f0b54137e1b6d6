"""What axe-core finds on the page of a study: in both colour schemes, on a phone's width, with points shown, and while trials run."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from filled import filled_store, tiny_spec
from optuna.samplers import RandomSampler
from playwright.sync_api import expect
from serving import site

from tuner.report.command import write_report
from tuner.storage.distributions import distributions
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


def findings(tab):
    """What axe-core objects to: rule, weight, and the places."""
    found = Axe().run(tab).response
    assert found["passes"], "axe-core has looked at nothing"
    return [(one["id"], one["impact"], [node["target"] for node in one["nodes"]]) for one in found["violations"]]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    storage = f"sqlite:///{folder / 'tuner.db'}"
    filled_store(open_storage(storage), 16).storage.engine.dispose()
    write_report("tiny", storage, str(folder / "report.html"))
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report(browser, url, scheme, viewport):
    context = browser.new_context(viewport=viewport, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(url)
    tab.wait_for_selector(".point.front")
    points = tab.locator(".point.front[data-number]")
    points.first.click()
    points.nth(1).click(modifiers=["Shift"])
    expect(tab.locator("#cards .card")).to_have_count(2)
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert findings(tab) == [], json.dumps(findings(tab), indent=1)
    context.close()


def test_the_live_page(browser, tmp_path):
    store = StudyStore.create_or_continue(open_storage(f"sqlite:///{tmp_path / 'tuner.db'}"), tiny_spec())
    filled_store(store.storage, 8)
    born = store.create_trial(fixed={}, distributions=distributions(store.spec.search), sampler=RandomSampler(seed=1), rival=None)
    store.beat([born.number], {born.number: (0.25, 0.5)})
    tab = browser.new_page()
    with site(store) as url:
        tab.goto(url)
        expect(tab.locator("#running article")).to_have_count(1)
        expect(tab.locator(".point.front").first).to_be_visible()
        assert findings(tab) == []
    tab.close()
    store.storage.engine.dispose()
