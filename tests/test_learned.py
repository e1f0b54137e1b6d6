"""What is read off a table of recorded trainings: by hand where it can be, and from end to end on a made-up network."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from replayed import HEADER, made_up_table

from benchmarks.learned import DROPS, LOOKS, early_ranks, learned, short_ranks, time_of
from benchmarks.learned_report import drawing, markdown
from benchmarks.pages import publish_section
from benchmarks.search_front import noise_free_front
from benchmarks.search_score import Choice
from trainers.errors import InputError
from tuner.replay.answers import Replay
from tuner.replay.surrogate import Surrogate
from tuner.replay.table import parse_table

FRONT = [Choice(0.2, 0.6), Choice(0.5, 0.8), Choice(1.0, 0.9)]


@pytest.mark.parametrize(("accuracy", "time"), [(0.5, 0.2), (0.6, 0.2), (0.61, 0.5), (0.9, 1.0), (0.91, None)])
def test_the_fastest_that_is_accurate_enough(accuracy, time):
    assert time_of(FRONT, accuracy) == time


def recorded(curves):
    """A table of trainings at full resolution with these curves, each with a seed of its own."""
    space = HEADER["space"] | {"epochs": {"low": 2, "high": 8}}
    header = HEADER | {"space": space, "baseline": HEADER["baseline"] | {"epochs": 8, "steps": 16}}
    lines = [
        {
            "params": {"frequency": 0.0, "kernel": "full", "epochs": len(curve)},
            "seed": seed,
            "curve": curve,
            "counts": {"32/full/1": 2 * len(curve)},
        }
        for seed, curve in enumerate(curves)
    ]
    return Replay(parse_table([header, *lines]), None)


def test_how_early_a_curve_tells_its_rank():
    # After 2, 4 and 6 of 8 epochs: the order turned round, two of three neighbours exchanged (1 - 6 * 2 / (3 * 8) = 0.5), the same order.
    curves = [
        [0.1, 0.3, 0.3, 0.5, 0.5, 0.5, 0.5, 0.5],
        [0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.6, 0.6],
        [0.1, 0.1, 0.2, 0.6, 0.6, 0.7, 0.7, 0.7],
        # Too short, and with nothing of its length to compare.
        [0.9, 0.1],
    ]
    assert early_ranks(recorded(curves)) == pytest.approx([-1.0, 0.5, 1.0])


def test_what_a_shorter_training_says_of_a_long_one():
    space = HEADER["space"] | {"kernel": "full", "epochs": [2, 4]}
    # By frequency 0, 0.5 and 1: the two best of the short ones are the other way round among the long ones, 1 - 6 * 2 / (3 * 8) = 0.5.
    accuracies = {2: (0.7, 0.8, 0.5), 4: (0.9, 0.8, 0.6)}
    lines = [
        {
            "params": {"frequency": frequency, "epochs": epochs},
            "seed": 0,
            "curve": [accuracy] * epochs,
            "counts": {"32/full/1": 2 * epochs},
        }
        for epochs, row in accuracies.items()
        for frequency, accuracy in zip((0.0, 0.5, 1.0), row, strict=True)
    ]
    table = parse_table([HEADER | {"space": space}, *lines])
    assert short_ranks(Replay(table, None)) == [(2, pytest.approx(0.5))]


@pytest.fixture(scope="module")
def replay():
    table = made_up_table(40)
    return Replay(table, Surrogate.fitted(table))


def test_a_front_with_a_field_fixed_has_no_other_points(replay, monkeypatch):
    monkeypatch.setattr("benchmarks.search_front._FILLING", 128)
    pooled = noise_free_front(replay, rounds=1, fixed={"kernel": "pooled"})
    everything = noise_free_front(replay, rounds=1)
    # Full resolution writes its kernel as full: none of the accurate trainings is among them.
    assert max(choice.accuracy for choice in pooled) < max(choice.accuracy for choice in everything)
    assert noise_free_front(replay, rounds=1, fixed={"frequency": 0.0}) != pooled


def test_what_is_found_is_told_and_drawn(replay, monkeypatch):
    monkeypatch.setattr("benchmarks.search_front._FILLING", 64)
    monkeypatch.setattr("tuner.report.importance._SAMPLES", 32)
    found = learned(replay, rounds=0)
    assert set(found["fronts"]) == {"policy", "kernel", "batch_norm", "growth"}
    assert set(found["fronts"]["kernel"]) == {"full", "pooled"}
    assert found["times"]["full resolution"][-1] <= found["times"]["full resolution"][0] <= 1
    assert all(0 <= alone <= in_all <= 1 for shares in found["importance"].values() for alone, in_all in shares.values())
    assert "lr" not in found["importance"]["accuracy, trained as the baseline"]
    text = markdown(found, DROPS, LOOKS, "none")
    assert "| kernel: pooled |" in text
    assert text.count("\n| ") == 1 + 9 + 1 + 11
    assert [axes.get_title(loc="left") for axes in drawing(found).axes][:4] == ["policy", "kernel", "batch_norm", "growth"]


def test_a_section_is_written_between_its_marks(tmp_path):
    (tmp_path / "images").mkdir()
    page, picture = tmp_path / "page.md", Figure()
    page.write_text("before\n")
    with pytest.raises(InputError, match=r"page\.md has no place for 'made-up', it must hold the two marks"):
        publish_section(tmp_path, "page", "made-up", "text\n", picture)
    begin, end = "<!-- made-up: written by a benchmark -->\n", "<!-- end of made-up -->\n"
    page.write_text(f"before\n{begin}an older one\n{end}after\n")
    publish_section(tmp_path, "page", "made-up", "text\n", picture)
    assert page.read_text() == f"before\n{begin}text\n{end}after\n"
    assert (tmp_path / "images" / "page-made-up.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_without_long_trainings_says_nothing_of_early_ranks():
    assert early_ranks(recorded([[0.1, 0.2], [0.2, 0.3], [0.3, 0.4]])) == []
