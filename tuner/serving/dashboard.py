"""Optuna's dashboard on a study, with our own pictures attached."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Final, cast

from trainers.errors import InputError, RunError
from tuner.results.confirmation import confirmed_front
from tuner.results.plots_html import front_figure, schedules_figure
from tuner.storage.lookup import open_study
from tuner.storage.store import StudyStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp

# The dashboard cuts off what is higher.
CARD_PX: Final = 450
# A browser keeps connections open; nobody waits for them at the end.
_LAST_ANSWERS_S: Final = 1


def serve(reference: str, storage: str | None, host: str, port: int) -> None:
    """`tuner dashboard`: serves until interrupted. The database's URL stays in this process."""
    import uvicorn
    from a2wsgi import WSGIMiddleware
    from optuna_dashboard import wsgi

    from tuner.serving.web_access import LOOPBACK_NAMES, TOKEN_QUERY, AccessControl, random_token, users_token

    users = users_token()
    store = open_study(reference, storage)
    attach_plots(store)
    with listening(host, port) as listener:
        public = not is_loopback(listener)
        token = users or (random_token() if public else None)
        names = None if public else LOOPBACK_NAMES | {host.lower()}
        page = AccessControl(cast("ASGIApp", WSGIMiddleware(wsgi(store.storage))), names=names, token=token)
        config = uvicorn.Config(
            page,
            log_level="warning",
            access_log=False,  # requests are no news to who looks at the page, and the first one holds the token
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
        if public:
            _warn(host)
        # A token that the user chose is a secret of theirs, and what is printed may be kept in a log.
        query = "" if token is None else f"?{TOKEN_QUERY}={'...' if users else token}"
        url = f"http://{url_host(listener)}/dashboard/studies/{store.study_id}{query}"
        print(f"study '{store.name}': {url} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def attach_plots(store: StudyStore) -> None:
    """Puts the front and the front's schedules into the study, where the dashboard shows them; a second time replaces the first."""
    from optuna_dashboard import save_plotly_graph_object

    results = confirmed_front(store)
    if results.completed:
        save_plotly_graph_object(store.study, front_figure(results, CARD_PX), graph_object_id="front")
        save_plotly_graph_object(store.study, schedules_figure(results, CARD_PX), graph_object_id="schedules")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on `host`, a name or an IP address. InputError where that is no address, RunError where its port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise InputError(f"--host is '{host}', it must be an address of this machine such as 127.0.0.1") from None
    # Of a name's addresses the IPv4 one: not every machine has IPv6.
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise RunError(
            f"port {port} of {host} can't be listened on: {os.strerror(error.errno or 0)}; choose another one with --port"
        ) from None


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it. By the address and not by the name, which a machine may resolve as it likes."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_host(listener: socket.socket) -> str:
    """Host and port as a URL names them: where it listens on every address, by the machine's name."""
    name, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(name)
    shown = socket.gethostname() if address.is_unspecified else str(address)
    return f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}"


def _warn(host: str) -> None:
    print(
        f"warning: on {host} everyone who has the token can read, rename and delete studies, and HTTP shows the token to whoever can read "
        "the network's traffic: on loopback, through a tunnel such as ssh -L, nobody else can",
        file=sys.stderr,
    )
