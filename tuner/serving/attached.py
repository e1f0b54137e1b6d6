"""Our own pictures in Optuna's dashboard."""

from __future__ import annotations

from typing import Final

import plotly.graph_objects as go
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA, split_plot_data

from tuner.results.confirmation import confirmed_front
from tuner.results.plots_html import front_figure, schedules_figure
from tuner.storage.opening import with_retries
from tuner.storage.rows import replace_study_pieces
from tuner.storage.store import StudyStore

# The dashboard cuts off what is higher.
CARD_PX: Final = 450


def attach_plots(store: StudyStore) -> None:
    """Puts the front and the front's schedules into the study, where the dashboard shows them; a second time replaces the first."""
    results = confirmed_front(store)
    if results.completed:
        _attach(store, "front", front_figure(results, CARD_PX))
        _attach(store, "schedules", schedules_figure(results, CARD_PX))


def _attach(store: StudyStore, name: str, figure: go.Figure) -> None:
    """As optuna_dashboard.save_plotly_graph_object, which makes a transaction of every 2,045 characters: a browser would find half of the
    old picture and half of the new one."""
    prefix = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
    pieces = split_plot_data(figure.to_json(), prefix)
    with_retries(lambda: replace_study_pieces(store.storage, store.study_id, prefix, pieces), f"the database {store.storage.url}")
