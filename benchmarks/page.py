"""How heavy the page of a large study is, and when a browser has drawn its front.

    python -m benchmarks.page                 # 10,000 trials
    python -m benchmarks.page --trials 500

Fills a study on SQLite, writes its report, and opens it in headless Chromium from the disk, REPEATS times, each in a fresh context.
first_paint_s: from the navigation's start until the front, its card and its tables have been drawn and given to the screen, the median.
requests_remote: what the page asked for besides its own file.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from playwright.sync_api import Browser, sync_playwright

# A script finds its own folder only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.evidence import provenance, write_result
from benchmarks.filled_study import STEPS_PER_EPOCH, drawn_points, fill, plan_cost, told
from studies import load_study
from studies.space import SearchSpace
from trainers.cost import CostTable, StepCost
from tuner.launching.timing import COST_TABLES, DATASET_FACTS
from tuner.report.document import study_document
from tuner.report.page import report_html
from tuner.storage.opening import open_storage
from tuner.storage.store import StudyStore

REPEATS: Final = 5
# As in a search: every fifth trial trains at full resolution.
_RIVAL_EVERY: Final = 5
_FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_POLL_MS: Final = 20
_DRAWN: Final = "performance.getEntriesByName('front-drawn').length && performance.getEntriesByName('first-contentful-paint').length"
_TIMES: Final = (
    "['front-drawn', 'first-contentful-paint'].map(name => performance.getEntriesByName(name)[0].startTime / 1000)"
    ".reduce((last, time) => Math.max(last, time))"
)


def main() -> None:
    """Fills, writes, opens and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        store = filled_store(f"sqlite:///{folder}/tuner.db", trials)
        begun_s = time.perf_counter()
        document = study_document(store)
        page = Path(folder, "report.html")
        page.write_text(report_html(document), encoding="utf-8")
        found = {"trials": store.finished_count(), "report_s": round(time.perf_counter() - begun_s, 2), **opened(page)}
        store.storage.engine.dispose()
    write_result("page", {**provenance(torch.device("cpu")), "front": len(document["front"]), **found})
    print(f"{found['trials']} trials, {len(document['front'])} on the front, report made in {found['report_s']} s")
    print(f"first_paint_s={found['first_paint_s']} page_kb={found['page_kb']} requests_remote={found['requests_remote']}")


def filled_store(url: str, trials: int) -> StudyStore:
    """The demo's study with so many trials, its start points and its costs (by pixels) included."""
    store = StudyStore.create_or_continue(open_storage(url), load_study("digits"))
    starts = store.spec.start_points()
    for params, rival in starts:
        told(store, params, rival)
    fill(store, points(store.spec.search, trials - len(starts) - 1))
    costs = {step: StepCost(cost, cost, cost) for step, cost in plan_cost(store.spec).costs.items()}
    store.set_attr(COST_TABLES, [CostTable({"device": "made up"}, 100.0, costs, 25, 0.0).to_dict()])
    store.set_attr(DATASET_FACTS, {"steps_per_epoch": STEPS_PER_EPOCH})
    return store


def points(space: SearchSpace, number: int) -> list[dict[str, Any]]:
    """So many points of the space, some of them at full resolution."""
    drawn = drawn_points(space, number)
    return [point if place % _RIVAL_EVERY else point | {"frequency": 0.0} for place, point in enumerate(drawn)]


def opened(page: Path) -> dict[str, Any]:
    """What the browser says of the page. RuntimeError where the page has an error of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_FLAGS)
        runs = [_opened_once(browser, page) for _ in range(REPEATS)]
        version = browser.version
        browser.close()
    times = [first_paint_s for first_paint_s, _ in runs]
    remote = max(requests for _, requests in runs)
    shown = {"first_paint_s": round(median(times), 2), "page_kb": round(page.stat().st_size / 1000), "requests_remote": remote}
    return shown | {"first_paints_s": [round(seconds, 3) for seconds in times], "chromium": version}


def _opened_once(browser: Browser, page: Path) -> tuple[float, int]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    # Not by wait_for_function: the page's policy forbids what that evaluates.
    while not tab.evaluate(_DRAWN):
        tab.wait_for_timeout(_POLL_MS)
    first_paint_s = float(tab.evaluate(_TIMES))
    context.close()
    if errors:
        raise RuntimeError(f"the page failed: {errors[0]}")
    return first_paint_s, sum(url != page.as_uri() for url in asked)


if __name__ == "__main__":
    main()
