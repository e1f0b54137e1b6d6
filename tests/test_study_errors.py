"""Whatever is wrong with a study file becomes one sentence: the dotted key, the value, the rule, the nearest name, and no secret."""

import pickle

import pytest
import yaml

from studies import StudySpec, load_study
from studies.files import study_name
from studies.sentences import mask_secrets
from studies.spec import parse_duration
from trainers.errors import InputError

SECRET = "hunter2"
MINIMAL = {"name": "small", "dataset": {"name": "digits"}, "model": "cifar_resnet8", "search": {"frequency": [0.0, 0.5]}}


def message(act, *args):
    with pytest.raises(InputError) as caught:
        act(*args)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text
    assert "Value error" not in text
    return text


def nested(dotted, value):
    """A minimal study with `value` at the dotted key."""
    raw = {key: dict(inner) if isinstance(inner, dict) else inner for key, inner in MINIMAL.items()}
    *parents, last = dotted.split(".")
    inner = raw
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return raw


RANGE = {"low": 0.5, "high": 0.75}
WRONG_VALUES = [
    ("name", "", ["name is ''", "1 to 80 letters", "first is a letter or a digit"]),
    ("name", "two words", ["name is 'two words'"]),
    ("name", "../up", ["name is '../up'"]),
    ("name", "-dash", ["name is '-dash'"]),
    ("name", "line\nbreak", ["name is 'line\\nbreak'"]),
    ("name", "digits\n", ["name is 'digits\\n'"]),
    ("name", "a" * 81, ["name is 'aaaa", "1 to 80"]),
    ("name", 2024, ["name is 2024"]),
    ("dataset", "digits", ["dataset is 'digits'", "mapping"]),
    ("dataset", {"root": "data"}, ["dataset.name is missing"]),
    ("dataset.name", "cifar1O", ["dataset.name is 'cifar1O'", "one of digits, cifar10", "nearest valid name is 'cifar10'"]),
    ("dataset.name", None, ["dataset.name is None", "one of"]),
    ("dataset.name", "folder", ["'folder'", "side_px"]),
    ("dataset.side_px", 64, ["dataset.side_px is 64", "'digits' has a side of its own"]),
    ("dataset.val_images", 0, ["dataset.val_images is 0", "at least 1"]),
    ("dataset.train_images", 1.5, ["dataset.train_images is 1.5", "whole number"]),
    ("dataset.split_seed", -1, ["dataset.split_seed is -1", "at least 0"]),
    ("dataset.root", 5, ["dataset.root is 5", "path of a folder"]),
    ("dataset.val_image", 5, ["dataset.val_image is unknown", "nearest valid name is 'val_images'"]),
    ("model", "", ["model is ''", "name of a network"]),
    ("model", 18, ["model is 18", "module:factory"]),
    ("training", [1], ["training is [1]", "mapping"]),
    ("training", None, ["training is None", "mapping"]),
    ("training.epochs", 0, ["training.epochs is 0", "at least 1"]),
    ("training.epochs", True, ["training.epochs is True", "whole number"]),
    ("training.epochs", "12", ["training.epochs is '12'", "whole number"]),
    ("training.epochs", 1, ["training.epochs is 1", "at least 2", "shorter"]),
    ("training.batch_size", 2.5, ["training.batch_size is 2.5", "whole number"]),
    ("training.optimizer", "adamW1", ["training.optimizer is 'adamW1'", "one of sgd, adamw, adam", "nearest valid name is 'adamw'"]),
    ("training.lr", 0, ["training.lr is 0", "above 0"]),
    ("training.lr", float("nan"), ["training.lr is nan", "finite"]),
    ("training.lr", "fast", ["training.lr is 'fast'", "finite number"]),
    ("training.weight_decay", -1, ["training.weight_decay is -1", "at least 0"]),
    ("training.momentum", 1.5, ["training.momentum is 1.5", "at most 1"]),
    ("training.label_smoothing", -0.1, ["training.label_smoothing is -0.1"]),
    ("training.lr_curve", "onecycle", ["training.lr_curve is 'onecycle'", "nearest valid name is 'one_cycle'"]),
    ("training.augment", "flip", ["training.augment is 'flip'", "list of any of crop, flip, cutout"]),
    ("training.augment", None, ["training.augment is None", "list"]),
    ("training.augment", ["flop"], ["training.augment is 'flop'", "nearest valid name is 'flip'"]),
    ("training.precision", "fp16", ["training.precision is 'fp16'", "nearest valid name"]),
    ("training.compile", "yes", ["training.compile is 'yes'", "true or false"]),
    ("training.compile", 1, ["training.compile is 1", "true or false"]),
    ("training.accumulate", 0, ["training.accumulate is 0", "at least 1"]),
    ("training.accumulate", True, ["training.accumulate is True", "whole number"]),
    ("training.weight_sampling", "pswaa", ["training.weight_sampling is 'pswaa'", "none, pswa, pwalks, pswm", "valid name is 'pswa'"]),
    ("training.weight_sampling", None, ["training.weight_sampling is None", "one of none, pswa"]),
    ("training.weight_sampling", ["pswa"], ["training.weight_sampling is ['pswa']", "one of none, pswa"]),
    ("training.weight_sampling", {"name": "pswaa"}, ["training.weight_sampling is 'pswaa'", "nearest valid name is 'pswa'"]),
    ("training.weight_sampling", {"name": "pswa", "every": 0}, ["training.weight_sampling.every is 0", "at least 1"]),
    ("training.weight_sampling", {"every": 5}, ["training.weight_sampling is {'name': 'none', 'every': 5", "it must have another name"]),
    ("training.weight_sampling.evry", 5, ["training.weight_sampling.evry is unknown", "valid keys are name, every", "name is 'every'"]),
    ("training.weight_samplin", "pswa", ["training.weight_samplin is unknown", "nearest valid name is 'weight_sampling'"]),
    ("training.every", 5, ["training.every is unknown", "nearest valid name is 'training.weight_sampling.every'"]),
    ("training.filter_sparsity", "reports", ["training.filter_sparsity is 'reports'", "nearest valid name is 'report'"]),
    ("training.acumulate", 2, ["training.acumulate is unknown", "nearest valid name is 'accumulate'"]),
    ("training.epoch", 3, ["training.epoch is unknown", "valid keys are epochs, batch_size", "nearest valid name is 'epochs'"]),
    ("lr", 0.1, ["lr is unknown", "nearest valid name is 'training.lr'"]),
    ("sampling", "tpe", ["sampling is unknown", "valid keys are name, dataset", "nearest valid name is 'sampler'"]),
    ("search", ["frequency"], ["search is ['frequency']", "mapping"]),
    ("search", {}, ["search.frequency is missing"]),
    ("search.frequenzy", 0.5, ["search.frequenzy is unknown", "nearest valid name is 'frequency'"]),
    ("search.seed", 1, ["search.seed is unknown", "valid keys are frequency"]),
    ("search.frequency", 1.5, ["search.frequency is 1.5", "at most 1"]),
    ("search.frequency", [0.5, -0.5], ["search.frequency is -0.5", "at least 0"]),
    ("search.frequency", {"low": 0.1, "high": 1}, ["search.frequency.low is 0.1", "must be 0", "full-resolution rivals"]),
    ("search.frequency", "often", ["search.frequency is 'often'", "finite number"]),
    ("search.policy", "determinstic", ["search.policy is 'determinstic'", "nearest valid name is 'deterministic'"]),
    ("search.policy", {"low": "deterministic", "high": "stochastic"}, ["search.policy is {", "list of names"]),
    ("search.kernel", ["full", "pool"], ["search.kernel is 'pool'", "nearest valid name is 'pooled'"]),
    ("search.batch_norm", None, ["search.batch_norm is None", "one of shared, separate"]),
    ("search.pooled_layers", ["all", "largest"], ["search.pooled_layers is 'largest'", "nearest valid name is 'largest_maps'"]),
    ("search.batch_growth", None, ["search.batch_growth is None", "one of none, constant_work"]),
    ("search.batch_growth", {"low": "none", "high": "constant_work"}, ["search.batch_growth is {", "list of names"]),
    ("search.growth", [], ["search.growth is []", "at least one"]),
    ("search.growth", ["linear", "linear"], ["search.growth is ['linear', 'linear']", "only once"]),
    ("search.scale", 0, ["search.scale is 0", "above 0"]),
    ("search.scale", [[0.5]], ["search.scale is [0.5]", "finite number"]),
    ("search.scale", {"low": 0.5}, ["search.scale.high is missing", "low and high"]),
    ("search.scale", {"low": 0.75, "high": 0.5}, ["search.scale.low is 0.75", "below search.scale.high = 0.5"]),
    ("search.scale", {"low": 0.5, "high": 0.5}, ["search.scale.low is 0.5", "below"]),
    ("search.scale", {"low": 0.5, "high": 1.25}, ["search.scale.high is 1.25", "at most 1"]),
    ("search.scale", RANGE | {"steps": 0.1}, ["search.scale.steps is unknown", "nearest valid name is 'step'"]),
    ("search.scale", RANGE | {"step": 0.2}, ["search.scale.step is 0.2", "divide high - low", "nearest valid high is 0.7"]),
    ("search.scale", RANGE | {"step": 0}, ["search.scale.step is 0", "above 0"]),
    ("search.scale", RANGE | {"step": "big"}, ["search.scale.step is 'big'", "finite number"]),
    ("search.scale", RANGE | {"log": "yes"}, ["search.scale.log is 'yes'", "true or false"]),
    ("search.scale", RANGE | {"log": True, "step": 0.25}, ["search.scale.step is 0.25", "left out where log is true"]),
    ("search.window_start", {"low": 0, "high": 0.5, "log": True}, ["search.window_start.low is 0.0", "above 0 where log is true"]),
    ("search.window_length", 2, ["search.window_length is 2", "at most 1"]),
    ("search.side_multiple", [4, 8], ["search.side_multiple is [4, 8]", "one fixed whole number"]),
    ("search.side_multiple", 0, ["search.side_multiple is 0", "at least 1"]),
    ("search.epochs", [5, 10.5], ["search.epochs is 10.5", "whole number"]),
    ("search.epochs", {"low": 2, "high": 10, "step": 0.5}, ["search.epochs.step is 0.5", "whole number"]),
    ("search.epochs", {"low": 2, "high": 9}, ["search.epochs is {'low': 2, 'high': 9}", "contain training.epochs = 10"]),
    ("search.epochs", {"low": 7, "high": 12}, ["search.epochs is {'low': 7", "at most 0.6 x training.epochs = 6", "proves nothing"]),
    ("search.epochs", 10, ["search.epochs is 10", "proves nothing"]),
    ("search.lr", 0.1, ["search.lr is 0.1", "contain training.lr = 0.2", "baseline"]),
    ("search.lr", {"low": 0.3, "high": 0.6, "log": True}, ["search.lr is {", "contain training.lr = 0.2"]),
    ("search.lr", {"low": 0.15, "high": 0.35, "step": 0.1}, ["search.lr is {", "contain training.lr = 0.2"]),
    ("search.weight_decay", [1e-4, 1e-3], ["search.weight_decay is [0.0001, 0.001]", "contain training.weight_decay = 0.0005"]),
    ("search.weight_sampling", ["none", "pswaa"], ["search.weight_sampling is 'pswaa'", "nearest valid name is 'pswa'"]),
    ("search.weight_sampling", "pswa", ["search.weight_sampling is 'pswa'", "contain training.weight_sampling = 'none'"]),
    ("search.grouping", {"low": "none", "high": "groupable"}, ["search.grouping is {", "list of names"]),
    ("objectives", "val_accuracy", ["objectives is 'val_accuracy'", "list"]),
    ("objectives", [], ["objectives is []", "at least one"]),
    ("objectives", ["accuracy"], ["objectives is 'accuracy'", "nearest valid name is 'val_accuracy'"]),
    ("objectives", ["val_loss", "val_loss"], ["objectives is ['val_loss', 'val_loss']", "only once"]),
    ("objectives", [["val_loss"]], ["objectives is ['val_loss']", "one of"]),
    ("sampler", "nsga", ["sampler is 'nsga'", "tpe, nsga2, gp, random, qmc", "nearest valid name is 'nsga2'"]),
    ("stopper", "dominanse", ["stopper is 'dominanse'", "none, dominance, pareto_asha", "nearest valid name is 'dominance'"]),
    ("stopper", None, ["stopper is None", "or a mapping with a name"]),
    ("stopper.name", "asha", ["stopper.name is 'asha'", "nearest valid name is 'pareto_asha'"]),
    ("stopper.confidense", 0.9, ["stopper.confidense is unknown", "valid keys are name, confidence"]),
    ("stopper.confidence", 0.9, ["stopper.confidence is 0.9", "only the stopper dominance has one"]),
    ("stopper", {"name": "dominance", "confidence": 1}, ["stopper.confidence is 1", "at least 0.5 and at most 0.999"]),
    ("stopper", {"name": "dominance", "confidence": "high"}, ["stopper.confidence is 'high'", "finite number"]),
    ("budget.trials", 0, ["budget.trials is 0", "at least 1"]),
    ("budget.timeout", 90, ["budget.timeout is 90", "'90m'"]),
    ("budget.timeout", "2 hours", ["budget.timeout is '2 hours'", "'1h30m'"]),
    ("budget.trial", 9, ["budget.trial is unknown", "nearest valid name is 'trials'"]),
    ("resources.cpus", 0, ["resources.cpus is 0", "at least 1"]),
    ("resources.gpus", -1, ["resources.gpus is -1", "at least 0"]),
    ("resources.gpus", 1.5, ["resources.gpus is 1.5", "whole number where it is above 1"]),
    ("resources.gpu", 1, ["resources.gpu is unknown", "nearest valid name is 'gpus'"]),
    ("seed", -1, ["seed is -1", "at least 0"]),
    ("seed", "0", ["seed is '0'", "whole number"]),
    ("storage", 5, ["storage is no database URL", "sqlite:///tuner.db", "postgresql+psycopg://host/database"]),
    ("storage", "tuner.db", ["storage is no database URL", "sqlite:///tuner.db"]),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG_VALUES, ids=[f"{key}={value}"[:50] for key, value, _ in WRONG_VALUES])
def test_a_wrong_value_is_one_sentence(key, value, said):
    text = message(StudySpec.from_json_dict, nested(key, value))
    for fragment in said:
        assert fragment in text
    assert text.startswith(said[0]) or said[0] == "'folder'"
    assert "more error" not in text


def test_methods_that_exclude_each_other_are_refused_wherever_they_meet():
    names = {"grouping": ["none", "groupable"], "filter_sparsity": ["none", "remove_at_end"]}
    text = message(StudySpec.from_json_dict, MINIMAL | {"search": MINIMAL["search"] | names})
    assert text.startswith("search.filter_sparsity is 'remove_at_end', it must be none or report where grouping is 'groupable'")
    StudySpec.from_json_dict(MINIMAL | {"search": MINIMAL["search"] | names | {"filter_sparsity": ["none", "report"]}})


@pytest.mark.parametrize("key", ["name", "dataset", "model", "search"])
def test_a_missing_key_is_named(key):
    assert message(StudySpec.from_json_dict, {name: value for name, value in MINIMAL.items() if name != key}).startswith(
        f"{key} is missing"
    )


@pytest.mark.parametrize("raw", [None, [], "digits", 5])
def test_a_study_must_be_a_mapping(raw):
    assert "must be a mapping" in message(StudySpec.from_json_dict, raw)


@pytest.mark.parametrize("key", [1, 2.5, None])
def test_a_key_that_is_no_text_is_unknown(key):
    assert message(StudySpec.from_json_dict, MINIMAL | {key: 1}).startswith(f"{key} is unknown, valid keys are name")


def test_of_several_errors_the_first_is_told_and_the_others_are_counted():
    raw = MINIMAL | {"seed": -1, "budget": {"trials": 0}, "training": {"epochs": 0}}
    assert message(StudySpec.from_json_dict, raw).startswith("training.epochs is 0")
    assert message(StudySpec.from_json_dict, raw).endswith(" (and 2 more errors)")


def test_a_mistyped_key_is_told_before_the_key_it_leaves_missing():
    raw = {name: value for name, value in MINIMAL.items() if name != "dataset"} | {"datset": {"name": "digits"}}
    text = message(StudySpec.from_json_dict, raw)
    assert text.startswith("datset is unknown")
    assert text.endswith("the nearest valid name is 'dataset' (and 1 more error)")


def test_a_long_value_is_cut():
    assert len(message(StudySpec.from_json_dict, MINIMAL | {"name": "x" * 5000})) < 300


# Files

WRONG_FILES = [
    ("", ["is None", "mapping"]),
    ("- a\n- b\n", ["is ['a', 'b']", "mapping"]),
    ("name: a\nname: b\n", ["not valid YAML", "key 'name' is given twice", "line 2, column 1"]),
    ("training:\n  lr: 0.1\n  epochs: 3\n  lr: 0.2\n", ["key 'lr' is given twice", "line 4, column 3"]),
    ("name: [a\nmodel: b\n", ["not valid YAML", "line 2"]),
    ("name: a\n\tmodel: b\n", ["not valid YAML", "line 2"]),
    ("name: !!python/object/apply:os.getcwd []\n", ["not valid YAML", "python/object/apply:os.getcwd"]),
    ("name: a\n---\nname: b\n", ["not valid YAML", "line 2"]),
    ("name: *other\n", ["not valid YAML", "undefined alias"]),
    ("? [a, b]\n: 1\n", ["not valid YAML", "unhashable key"]),
    ("name: \x00\n", ["not valid YAML"]),
    ("name: 2024-99-99\n", ["not valid YAML", "month"]),
    ("[" * 5000, ["not valid YAML", "nested too deeply"]),
    ("name: a\nmodle: b\n", ["modle is unknown", "nearest valid name is 'model'"]),
]


@pytest.mark.parametrize(("text", "said"), WRONG_FILES, ids=[text[:30] for text, _ in WRONG_FILES])
def test_a_wrong_file_is_one_sentence_with_its_path(tmp_path, text, said):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    told = message(load_study, str(path))
    assert told.startswith(f"study file '{path}'")
    for fragment in said:
        assert fragment in told


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"name: \xff\xfe")
    assert "is not UTF-8 text" in message(load_study, str(path))


def test_a_missing_file_names_the_nearest_builtin_study(tmp_path):
    text = message(load_study, str(tmp_path / "cifar-10.yaml"))
    assert "cifar-10.yaml' is missing" in text
    assert "built-in studies are" in text
    assert "nearest valid name is 'cifar10'" in text
    assert "nearest valid name is 'digits'" in message(load_study, "digts")


@pytest.mark.parametrize("reference", ["", "a" * 5000, "nul\0byte", "line\nbreak", "no such file.yaml", "dir/x.yaml"])
def test_a_reference_that_is_neither_file_nor_name_is_refused(reference):
    assert "is missing" in message(load_study, reference)
    text = message(study_name, reference)
    assert "must be 1 to 80 letters" in text
    assert "nor is it a file" in text


# Overrides

WRONG_OVERRIDES = [
    ("training.lr", ["it must be key=value such as training.lr=0.1"]),
    ("=3", ["it must be key=value"]),
    ("training..lr=3", ["it must be key=value"]),
    ("", ["it must be key=value"]),
    ("trainig.lr=0.1", ["trainig is unknown", "nearest valid name is 'training'"]),
    ("trials=3", ["trials is unknown", "nearest valid name is 'budget.trials'"]),
    ("training.lrate=0.1", ["training.lrate is unknown", "nearest valid name is 'lr'"]),
    ("training.lr.peak=0.1", ["training.lr is 0.1", "no mapping"]),
    ("model.name=resnet18", ["model is 'cifar_resnet8'", "no mapping"]),
    ("training.lr=[0.1", ["its value is not valid YAML"]),
    ("training.lr={a: 1, a: 2}", ["key 'a' is given twice"]),
    ("training.lr=", ["training.lr is None", "finite number"]),
    ("search.lr.hihg=0.5", ["search.lr.hihg is unknown", "nearest valid name is 'high'"]),
    ("search.scale.low=0.875", ["search.scale.low is 0.875", "below"]),
    ("search.kernel.low=full", ["search.kernel is ['full', 'pooled']", "no mapping"]),
    ("budget.trials=many", ["budget.trials is 'many'", "whole number"]),
    ("dataset.name=folder", ["needs side_px"]),
    ("name=two words", ["name is 'two words'"]),
]


@pytest.mark.parametrize(("override", "said"), WRONG_OVERRIDES, ids=[override for override, _ in WRONG_OVERRIDES])
def test_a_wrong_override_is_one_sentence(override, said):
    text = message(load_study, "digits", [override])
    # Who typed it is not sent to a file of the package.
    assert text.startswith(f"--set '{override}': ")
    assert "digits.yaml" not in text
    for fragment in said:
        assert fragment in text


def test_of_several_overrides_those_are_named_that_are_to_blame():
    wrong = "training.epoch=3"
    assert message(load_study, "digits", ["seed=1", wrong, "name=a"]).startswith(f"--set '{wrong}': training.epoch is unknown")
    # Alone the first one would be wrong too, and the second one mends it.
    mended = ["dataset.name=folder", "dataset.side_px=64"]
    assert message(load_study, "digits", [*mended, wrong]).startswith(f"--set '{wrong}': ")
    # Neither alone is.
    assert message(load_study, "digits", ["seed=-1", wrong]).startswith(f"--set 'seed=-1' --set '{wrong}': ")


def test_a_file_that_is_wrong_itself_is_named_beside_right_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmodle: cifar_resnet8\n")
    assert message(load_study, str(path), ["seed=1"]).startswith(f"study file '{path}': modle is unknown")


@pytest.mark.parametrize(
    "text", ["", "0s", "0h0m", "2", "h", "1.5h", "-1h", "1h 30m", "30m1h", "2H", "1d", "٢h", None, 90, "9" * 5000 + "s"]
)
def test_what_is_no_duration_is_refused(text):
    assert "'1h30m'" in message(parse_duration, text)


# Secrets

URLS = [
    f"postgresql://user:{SECRET}@host/db",
    f"postgresql+psycopg://user:{SECRET}/more@host:5432/db",
    f"postgresql://user:{SECRET}@{SECRET}@host/db",
    f"postgresql://user:a {SECRET}@host/db",
    f"postgresql://user:{SECRET}[@host/db",
    f"postgresql:///db?host=h&password={SECRET}",
    f"postgresql:///db?sslpassword={SECRET}",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_in_the_storage_is_refused_and_never_shown(url, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"storage": url}))
    for act in (
        lambda: StudySpec.from_json_dict(MINIMAL | {"storage": url}),
        lambda: load_study(str(path)),
        lambda: load_study("digits", [f"storage={url}"]),
    ):
        text = message(act)
        assert "TUNER_STORAGE" in text
        assert "~/.pgpass" in text
        assert SECRET not in text


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("key", ["name", "dataset", "dataset.name", "training.lr", "training.optimizer", "search.policy", "seed"])
def test_a_secret_in_the_wrong_place_is_not_shown(key, url):
    cut_anywhere = ["x" * length + url for length in range(50, 100, 3)]
    for wrong in (url + " ", [url], *cut_anywhere):
        assert SECRET not in message(StudySpec.from_json_dict, nested(key, wrong))
    for nonsense in ({"dataset": {"name": "digits", "root": [url]}}, {"model": {url: url}}, {url: 1}):
        assert SECRET not in message(StudySpec.from_json_dict, MINIMAL | nonsense)


@pytest.mark.parametrize("url", URLS)
def test_a_secret_in_a_mistyped_override_reference_or_file_is_not_shown(url, tmp_path):
    assert SECRET not in message(load_study, "digits", [f"storage:{url}"])
    assert SECRET not in message(load_study, "digits", [f"storrage={url}"])
    assert SECRET not in message(load_study, "digits", [f"model.x={url}", f"model={url}", "seed=-1"])
    assert SECRET not in message(load_study, url)
    assert SECRET not in message(study_name, url)
    path = tmp_path / "study.yaml"
    path.write_text(f"name: [\nstorage: '{url}'\n")
    assert SECRET not in message(load_study, str(path))
    path.write_text(f"name: a\nstorage: host=h password={SECRET}\nstorage: x\n")
    assert SECRET not in message(load_study, str(path))
    path.write_text(f"name: a\nstorage: '{SECRET}' x\n")
    assert SECRET not in message(load_study, str(path))


def test_no_exception_in_the_chain_holds_the_secret():
    with pytest.raises(InputError) as caught:
        StudySpec.from_json_dict(MINIMAL | {"storage": URLS[0]})
    assert caught.value.__suppress_context__
    assert SECRET not in str(caught.value.__context__)
    assert SECRET.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at postgresql://u:p@h/d now", "at postgresql://***@h/d now"),
        ("host=h password=abc user=u", "host=h password=*** user=u"),
        ("?password=abc&x=1", "?password=***&x=1"),
        ("sqlite:///a.db has no password, or so", "sqlite:///a.db has no password, or so"),
    ],
)
def test_masking(text, masked):
    assert mask_secrets(text) == masked
