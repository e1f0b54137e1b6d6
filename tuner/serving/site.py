"""What `tuner dashboard` answers: our page, what it asks for, and Optuna's dashboard for every other path."""

from __future__ import annotations

import json
import threading
from typing import cast

from a2wsgi import WSGIMiddleware
from optuna_dashboard import wsgi
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.report.page import live_html
from tuner.serving.live import LiveStudy
from tuner.serving.packed import Packed
from tuner.storage.store import StudyStore


def study_site(store: StudyStore) -> ASGIApp:
    """`/`: the page; `/live.json`: what runs and which document is the newest; `/study.json`: that document."""
    study = LiveStudy(store)
    # So that it is there once the browser has started.
    threading.Thread(target=study.state, daemon=True).start()
    text, policy = live_html()
    page = Packed.of(text, "text/html", {"Content-Security-Policy": policy})

    # Not coroutines: these run in threads, because the database may keep one waiting.
    def home(request: Request) -> Response:
        study.hurry()
        return page.response(request)

    def live_json(request: Request) -> Response:
        return Packed.of(json.dumps(study.state(), allow_nan=False), "application/json").response(request)

    def study_json(request: Request) -> Response:
        document = study.document
        return document.response(request) if document else PlainTextResponse("no trial has completed yet\n", 404)

    optuna = cast("ASGIApp", WSGIMiddleware(wsgi(store.storage)))

    async def watched_optuna(scope: Scope, receive: Receive, send: Send) -> None:
        # Who looks at Optuna's dashboard only sees new pictures, too.
        study.notice()
        await optuna(scope, receive, send)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/live.json", live_json),
            Route("/study.json", study_json),
            Mount("/", app=watched_optuna),
        ]
    )
