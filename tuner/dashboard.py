"""Optuna's dashboard on a study, with our own pictures attached."""

from __future__ import annotations

import ipaddress
import socketserver
import sys
import wsgiref.simple_server
from typing import Any, Final

from tuner.commands import open_study
from tuner.plots_html import front_figure, schedules_figure
from tuner.results import study_front
from tuner.store import StudyStore

# The dashboard cuts off what is higher.
CARD_PX: Final = 450


def serve(reference: str, storage: str | None, host: str, port: int) -> None:
    """`tuner dashboard`: serves until interrupted. The database's URL stays in this process."""
    from optuna_dashboard import wsgi

    store = open_study(reference, storage)
    attach_plots(store)
    if not _is_loopback(host):
        print(
            f"warning: on {host} everyone who reaches this machine can read, rename and delete studies: the dashboard asks for no password",
            file=sys.stderr,
        )
    with wsgiref.simple_server.make_server(host, port, wsgi(store.storage), server_class=_Server, handler_class=_QuietHandler) as server:
        url = f"http://{host}:{server.server_port}/dashboard/studies/{store.study_id}"
        print(f"study '{store.name}': {url} (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def attach_plots(store: StudyStore) -> None:
    """Puts the front and the front's schedules into the study, where the dashboard shows them; a second time replaces the first."""
    from optuna_dashboard import save_plotly_graph_object

    results = study_front(store)
    if results.completed:
        save_plotly_graph_object(store.study, front_figure(results, CARD_PX), graph_object_id="front")
        save_plotly_graph_object(store.study, schedules_figure(results, CARD_PX), graph_object_id="schedules")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """The page asks for several things at once, and a browser may leave a connection open."""

    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Requests are no news to who looks at the page."""
