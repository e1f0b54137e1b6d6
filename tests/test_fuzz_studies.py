"""Whatever a study file holds, it is a study that can be begun, or one sentence says what is wrong: tried with wrecked study files.

FUZZ_STUDIES=100000 tries that many inputs a kind instead of a few hundred, other ones each time.
"""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path

import pytest
import yaml
from bad_inputs import BOMB, FILES, KEYS, MERGE_BOMB, NAMES, VALUES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import studies
from studies import StudySpec, load_study
from studies.space import possible_steps
from trainers.errors import InputError

LONG = os.environ.get("FUZZ_STUDIES")
PROFILE = settings(
    max_examples=int(LONG or 300), deadline=None, derandomize=LONG is None, suppress_health_check=list(HealthCheck), print_blob=True
)
# Far above what any input takes, so that only a reader that hangs is told.
HANG_S = 30
FOLDER = Path(studies.__file__).parent / "files"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]
STUDIES = [yaml.safe_load(text) for text in TEXTS]


def begun(data: bytes, path: Path) -> bool:
    """Reads a study file; True for a study that can be begun and is read back equal, False for one sentence. Fails for anything else."""
    path.write_bytes(data)
    started_s = time.monotonic()
    try:
        spec = load_study(str(path))
    except InputError as error:
        said = str(error)
        assert said.startswith(f"study file '{path}'")
        assert said.isprintable()
        assert len(said) < 1000 + len(str(path))
        is_begun = False
    else:
        written = json.dumps(spec.to_json_dict(), allow_nan=False).encode()
        assert StudySpec.from_json_dict(json.loads(written)) == spec
        assert spec.start_points()[0] == (spec.baseline_params(), "baseline")
        assert spec.train_config(spec.baseline_params(), spec.seed).epochs == spec.training.epochs
        assert possible_steps(spec.search, spec.dataset.full_px)
        is_begun = True
    assert time.monotonic() - started_s < HANG_S
    return is_begun


# Wrecked structure

NASTY_TEXT = [
    "", " ", "\0", "\x1b[2J", "\ud800", "é", "\u0663", "\uff10", "\U0001d7d9", "<<", "=", "~", "null", "yes", "1e3", "0x1F", "a" * 3000,
    "sqlite://", "x://y:z@w",
]  # fmt: skip
NASTY_NUMBERS = [
    0, -0.0, 1, -1, 0.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**32, 2**53, 2**53 + 1, 2**64, 10**400,
]  # fmt: skip
# Put into the file as they stand here, because no dumper writes them.
RAW = [
    "!!bool maybe", "!!int ''", "!!float x", "!!timestamp soon", "!!binary é", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a]", "!!map [1]",
    "!!seq {}", "!!str [a]", "!!null x", "!!python/tuple [1]", "! x", "!<x> y", "*x", "&x [*x]", "&x {<<: *x}", "{<<: [{a: 1}]}",
    "1:60", "1:59:59.5", "190:20:30", "0b2", "0o8", "0x", "08", "1_", "_1", "+.inf", ".NaN", "1e", "1.e5", "5e-4", "2024-02-30",
    "2024-01-01T25:00:00Z", "2024-01-01 00:00:00 +99:99", "? x", "- x", "|\n x", ">-\n x", "'", '"\\x"', '"\\ud83d"', "%", "@x", "`x`", "#",
    "[", "{", "}", "\t", "\x85", "\u2028", "\ufeff", "---", "...", "0x" + "f" * 2000, "9" * 5000, "1" + ":00" * 200 + ".5",
    "[" * 25 + "1" + "]" * 25,
]  # fmt: skip
MARK = "RAWVALUE{}END"
TEXT = st.one_of(st.sampled_from(NASTY_TEXT), st.text(max_size=6))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NASTY_NUMBERS),
    st.integers(),
    st.floats(),
    TEXT,
    st.dates(),
    st.datetimes(),
    st.binary(max_size=4),
    st.integers(0, len(RAW) - 1).map(MARK.format),
)
NODES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(TEXT, st.integers()), inner, max_size=4)),
    max_leaves=8,
)
RANGES = st.fixed_dictionaries({"low": SCALARS, "high": SCALARS}, optional={"log": SCALARS, "step": SCALARS})
LETTERS = st.characters(codec="utf-8")


def places(node, depth=0):
    """Every (container, key) below a node, a few levels deep: a copy may hold itself."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in list(items):
        yield node, key
        if depth < 4:
            yield from places(inner, depth + 1)


@st.composite
def one_edit(draw, word):
    """A word with one letter changed, left out, put in or moved."""
    at = draw(st.integers(0, len(word)))
    letter = draw(LETTERS)
    changed, left_out, put_in = word[:at] + letter + word[at + 1 :], word[:at] + word[at + 1 :], word[:at] + letter + word[at:]
    return draw(st.sampled_from([changed, left_out, put_in, word[:at] + word[at:][::-1], word.upper()]))


@st.composite
def wrecked_studies(draw):
    """A built-in study with a few of its nodes replaced, left out, copied to elsewhere, renamed or added to."""
    study = copy.deepcopy(draw(st.sampled_from(STUDIES)))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from([(study, "name"), *places(study)]))
        node = container.get(key) if isinstance(container, dict) else container[key]
        match draw(st.sampled_from(["replace", "scalar", "range", "leave out", "copy", "rename", "add"])):
            case "replace":
                container[key] = draw(NODES)
            case "scalar":
                container[key] = draw(SCALARS)
            case "range":
                container[key] = draw(RANGES)
            case "leave out":
                container.pop(key, None) if isinstance(container, dict) else container.pop(key)
            case "copy":
                other, place = draw(st.sampled_from([(study, "name"), *places(study)]))
                other[place] = node
            case "rename" if isinstance(container, dict) and isinstance(key, str):
                container[draw(one_edit(key))] = container.pop(key, None)
            case _ if isinstance(container, dict):
                container[draw(st.one_of(TEXT, SCALARS.filter(lambda key: key == key)))] = draw(NODES)
            case _:
                container.insert(0, draw(NODES))
    text = yaml.safe_dump(
        study, sort_keys=False, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.sampled_from([None, True, False]))
    )
    for number, raw in enumerate(RAW):
        text = text.replace(MARK.format(number), raw)
    return text.encode("utf-8", "surrogatepass")


@PROFILE
@given(data=wrecked_studies())
def test_a_wrecked_study_is_begun_or_refused(data, tmp_path):
    # Begun or refused, which `begun` holds each time; and the same when it is read again, because nothing is kept between two readings.
    path = tmp_path / "study.yaml"
    assert begun(data, path) == begun(data, path)


# Wrecked text

PIECES = st.one_of(
    st.sampled_from(
        [
            *": ,-?[]{}#&*!|>'\"%@`\\=<~.\n\t\r\0",
            ": ",
            "- ",
            "\n  ",
            "\n- ",
            "<<: ",
            "&a ",
            "*a ",
            "---\n",
            "!!",
            "'",
            "low",
            "step",
            "1e9",
            ".nan",
        ]
    ),
    st.sampled_from(RAW),
    st.text(max_size=5),
)


@st.composite
def wrecked_texts(draw):
    """The text of a built-in study with pieces put in, left out, doubled and moved."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = text[start:end]
        match draw(st.sampled_from(["put in", "replace", "leave out", "double", "move", "cut off"])):
            case "put in":
                text = text[:start] + draw(PIECES) + text[start:]
            case "replace":
                text = text[:start] + draw(PIECES) + text[end:]
            case "leave out":
                text = text[:start] + text[end:]
            case "double":
                text = text[:end] + piece * draw(st.integers(1, 50)) + text[end:]
            case "move":
                text = piece + text[:start] + text[end:]
            case _:
                text = text[:start]
    return text.encode("utf-8", "surrogatepass")


@PROFILE
@given(data=wrecked_texts())
def test_a_wrecked_text_is_begun_or_refused(data, tmp_path):
    # Begun or refused, which `begun` holds each time; and the same when it is read again, because nothing is kept between two readings.
    path = tmp_path / "study.yaml"
    assert begun(data, path) == begun(data, path)


@PROFILE
@given(data=st.binary(max_size=200))
@example(data=b"")
def test_any_bytes_are_refused(data, tmp_path):
    assert not begun(data, tmp_path / "study.yaml")


# What was found: by the long run, and on the way to it.

START = "name: small\ndataset: {name: digits}\nmodel: resnet18\n"
FOUND = [
    # Each raised something else than InputError before.
    START + "training: {compile: !!bool maybe}\n",
    START + "training: {lr: !!timestamp soon}\n",
    START + "seed: !!int ''\n",
    START + "training: !!map [1]\n",
    START + f"training: {{lr: 1{':00' * 200}.5}}\n",
    START + f"training: {{lr: {10**400}}}\n",
    START + f"search: {{frequency: {{low: 0, high: {10**400}}}}}\n",
    START + f"sampler: 0x{'f' * 4000}\n",
    START + f"? 0x{'f' * 4000}\n: 1\n",
    # These filled the memory, or took minutes.
    BOMB,
    MERGE_BOMB,
    START + f"search: {{frequency: [{', '.join(f'0.{number:06d}' for number in (*range(1, 9000), 8999))}]}}\n",
    START + f"training: {{lr: {'://' * 30_000}}}\n",
    # More than one line, a line of a megabyte, or letters that steer a terminal.
    START + '"\\e[2J\\e]0;owned\\a": 1\n',
    START + '"two\\nlines": 1\n',
    START + f"training: {{lr: [{'1, ' * 20_000}]}}\n",
    START + f"training: {{optimizer: {'x' * 50_000}}}\n",
    START + f"? {'x' * 50_000}\n: 1\n",
    START + f"training: !!{'x' * 50_000} 1\n",
    START + f"training: *{'x' * 50_000}\n",
    # A study that nothing could begin: it could be loaded, but neither be kept in a database nor enumerated.
    'name: small\ndataset: {name: digits}\nmodel: "\\ud800"\nsearch: {frequency: 0.5}\n',
    'name: small\ndataset: {name: digits, root: "\\0"}\nmodel: resnet18\nsearch: {frequency: 0.5}\n',
    START + "search: {frequency: 0.5, scale: {low: 0.5, high: 1.0, step: 1.0e-9}}\n",
    START + f"training: {{epochs: {10**30}}}\nsearch: {{frequency: 0.5}}\n",
    START + "resources: {gpus: 1.0e+300}\nsearch: {frequency: 0.5}\n",
    "name: small\ndataset: {name: folder, side_px: 1000000000000}\nmodel: resnet18\nsearch: {frequency: 0.5, growth: linear}\n",
]


@pytest.mark.parametrize("text", FOUND, ids=range(len(FOUND)))
def test_what_was_found_stays_mended(text, tmp_path):
    path = tmp_path / "study.yaml"
    assert not begun(text.encode("utf-8", "surrogatepass"), path)


def test_the_table_of_bad_inputs_is_refused_too(tmp_path):
    for row in [*FILES, *NAMES, *KEYS, *VALUES]:
        if row.files:
            is_begun = begun(row.files["study.yaml"], tmp_path / "study.yaml")
            # Which databases there are is the tuner's to know, so a wrong one is refused when the study is opened.
            assert is_begun == any("storage in the study file" in said for said in row.said), row
