"""Who may use a page that this machine serves: asked for under our own name, changed by our own pages only, opened with the token."""

from __future__ import annotations

import hashlib
import html
import os
import secrets
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.errors import InputError

TOKEN_VARIABLE: Final = "TUNER_DASHBOARD_TOKEN"
TOKEN_QUERY: Final = "token"
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SHORTEST_TOKEN: Final = 16
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    # An address may hold the token.
    "Referrer-Policy": "no-referrer",
}


def users_token() -> str | None:
    """The token that the user chose in TUNER_DASHBOARD_TOKEN, None where it isn't set; InputError where it is easily guessed."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and len(token) < _SHORTEST_TOKEN:
        # Not shown: half a secret is one, too.
        raise InputError(f"{TOKEN_VARIABLE} has {len(token)} characters, it must have at least {_SHORTEST_TOKEN}")
    return token


def random_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


class AccessControl:
    """ASGI middleware that lets a request through to `app`, or answers it with one sentence.

    names: what the request's Host may be, whatever its port; None for any. Else a page of another site could give its name our address
    (DNS rebinding) and read all it likes. token: what a browser must have shown once, in a URL's query; None where none is needed.
    """

    def __init__(self, app: ASGIApp, *, names: frozenset[str] | None, token: str | None) -> None:
        self._app = app
        self._names = names
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (self._own_answer(Request(scope)) or self._app)(scope, receive, send_with_headers)

    def _own_answer(self, request: Request) -> Response | None:
        """None where the request may pass."""
        host = request.headers.get("host", "")
        if self._names is not None and _name(host) not in self._names:
            return _refusal(400, f"this page is only given out under the names {', '.join(sorted(self._names))}")
        origin = request.headers.get("origin")
        if request.method not in _READING and origin is not None and urlsplit(origin).netloc != host:
            return _refusal(403, "another site's page may not change anything here")
        if self._token is None:
            return None
        if (shown := request.query_params.get(TOKEN_QUERY)) is not None and _same(shown, self._token):
            return self._entry(request, self._token)
        if _same(request.cookies.get(_cookie_name(request), ""), _cookie_value(self._token)):
            return None
        return _refusal(401, "this page needs a token: open the URL with the token that tuner printed when it began to serve")

    def _entry(self, request: Request, token: str) -> Response:
        """Keeps the token as a cookie and goes on to the same page without it in its address.

        A page, because a browser that follows a link of another site (a mail, a chat) would follow a redirect without the cookie.
        """
        queries = [(name, value) for name, value in request.query_params.multi_items() if name != TOKEN_QUERY]
        # One slash: two would lead to another site.
        target = "/" + quote(request.url.path.lstrip("/")) + (f"?{urlencode(queries)}" if queries else "")
        page = HTMLResponse(f'<!DOCTYPE html><title>tuner</title><meta http-equiv="refresh" content="0;url={html.escape(target)}">')
        page.set_cookie(_cookie_name(request), _cookie_value(token), httponly=True, samesite="strict")
        return page


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _same(shown: str, expected: str) -> bool:
    return secrets.compare_digest(shown.encode(), expected.encode())


def _cookie_name(request: Request) -> str:
    # Browsers keep cookies by host, whatever the port, and a machine may serve several studies.
    return f"tuner-{request.scope['server'][1]}"


def _cookie_value(token: str) -> str:
    # Not the token itself, which may hold what no cookie can.
    return hashlib.sha256(token.encode()).hexdigest()


def _refusal(status: int, sentence: str) -> Response:
    return PlainTextResponse(f"{sentence}\n", status)
