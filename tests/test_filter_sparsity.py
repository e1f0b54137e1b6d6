"""Filters that do nothing, made by hand or found in real networks: what is said of them, and that nothing changes when they are gone."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trainers import Schedule, TrainConfig, train
from trainers.config import DataConfig
from trainers.errors import InputError
from trainers.loop import Training
from trainers.methods.filter_activity import filter_activities
from trainers.methods.filter_removal import remove
from trainers.methods.filter_sparsity import find_removal, sparsity_figures
from trainers.methods.kept import chained, fit_network
from trainers.methods.settings import FilterSparsity, WeightSampling
from trainers.models import build_model
from trainers.optim import build_optimizer

CONFIG = TrainConfig(
    model="test_filter_sparsity:quiet_network",
    data=DataConfig(name="digits", train_images=64, val_images=40),
    schedule=Schedule(policy="stochastic", frequency=0.5, kernel="pooled", batch_norm="separate", window_length=0.8, seed=3),
    epochs=2,
    batch_size=16,
    lr=0.02,
    seed=7,
    device="cpu",
    threads=1,
)


def silence(norm: nn.BatchNorm2d, betas: dict[int, float]) -> None:
    """Makes filters constant: gamma becomes 0 and beta what is given."""
    with torch.no_grad():
        for index, beta in betas.items():
            norm.weight[index], norm.bias[index] = 0.0, beta


def quiet_network(num_classes: int) -> nn.Module:
    """In each of its three blocks five of the first convolution's filters are constant: four hold 0, one holds a half."""
    network = build_model("cifar_resnet8", num_classes, 32)
    for stage in network.stages:
        silence(stage[0].first[1], {0: -1.0, 1: -0.5, 4: -2.0, 5: 0.0, 7: 0.5})
    return network


def unlike_fresh(network: nn.Module) -> nn.Module:
    """Double precision, and batch norms and biases as if they had been trained."""
    torch.manual_seed(0)
    for module in network.double().eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.5)
    return network


def images_of(side_px: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, side_px, side_px, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@torch.no_grad()
def removed_from(network: nn.Module, images: torch.Tensor):
    """Removes what can be removed, asserts that outputs stay, and returns what was removed."""
    batches = [images, 1.7 * images.flip(0)]
    before = [network(batch) for batch in batches]
    removal = find_removal(network, filter_activities(network, batches, images[:1]), images[:1])
    remove(network, removal)
    torch.testing.assert_close([network(batch) for batch in batches], before, rtol=1e-6, atol=1e-7)
    return removal


class Plain(nn.Module):
    """A layer with a batch norm, an activation function, and a layer that reads it."""

    def __init__(self, reader: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.activation = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), activation or nn.ReLU()
        self.reader = reader

    def forward(self, images):
        return self.reader(self.activation(self.norm(self.first(images)))).mean((2, 3))


def test_zeros_go_from_every_layer_and_of_constants_in_front_of_padding_one_stays():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 3, padding=1)))
    silence(network.norm, {0: -1.0, 2: 0.25, 3: 0.5, 5: 0.0})
    weight = network.reader.weight.detach().clone()
    removal = removed_from(network, images_of(8))
    assert removal.filters == 3
    assert removal.kept["first.weight"] == {0: [1, 3, 4]}
    assert removal.kept["reader.weight"] == {1: [1, 3, 4]}
    assert (network.first.out_channels, network.norm.num_features, network.reader.in_channels) == (3, 3, 3)
    # Filter 2 held half of what filter 3 holds.
    torch.testing.assert_close(network.reader.weight, torch.stack([weight[:, 1], weight[:, 3] + weight[:, 2] / 2, weight[:, 4]], 1))


def test_without_padding_constants_go_into_the_bias():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 3)))
    silence(network.norm, {0: -1.0, 2: 0.25, 3: 0.5})
    weight, bias = network.reader.weight.detach().clone(), network.reader.bias.detach().clone()
    removal = removed_from(network, images_of(8))
    assert removal.kept["first.bias"] == {0: [1, 4, 5]}
    torch.testing.assert_close(network.reader.bias, bias + 0.25 * weight[:, 2].sum((1, 2)) + 0.5 * weight[:, 3].sum((1, 2)))


def test_or_into_the_batch_norm_that_follows():
    network = unlike_fresh(Plain(nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)), nn.Hardswish()))
    silence(network.norm, {0: -4.0, 2: 0.25, 3: -1.5})
    mean, weight = network.reader[1].running_mean.clone(), network.reader[0].weight.detach().clone()[:, :, 0, 0]
    assert removed_from(network, images_of(8)).filters == 3
    # hardswish(x) = x relu6(x + 3) / 6: 0, 0.25 * 3.25 / 6 and -1.5 * 1.5 / 6.
    torch.testing.assert_close(network.reader[1].running_mean, mean - 0.8125 / 6 * weight[:, 2] + 0.375 * weight[:, 3])


def test_what_nothing_can_take_in_stays():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 1, bias=False)))
    silence(network.norm, {2: 0.25})
    assert removed_from(network, images_of(8)).kept == {}


def test_a_depthwise_layer_with_padding_passes_zeros_on_but_no_other_constant():
    network = unlike_fresh(Plain(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1))))
    silence(network.norm, {0: -1.0, 2: 0.25})
    removal = removed_from(network, images_of(8))
    # One of the layer that makes it, and the depthwise layer's own.
    assert removal.filters == 2
    assert removal.kept["reader.0.weight"] == {0: [1, 2, 3, 4, 5]}
    assert (network.reader[0].groups, network.reader[0].in_channels, network.reader[0].out_channels) == (5, 5, 5)


def test_every_layer_keeps_a_filter():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 3, padding=1)))
    silence(network.norm, dict.fromkeys(range(6), -1.0))
    assert removed_from(network, images_of(8)).kept["first.weight"] == {0: [0]}


class Forked(Plain):
    """Two layers read the same channels."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__(nn.Conv2d(6, 6, 3, padding=1))
        self.other = other

    def forward(self, images):
        features = self.activation(self.norm(self.first(images)))
        return torch.cat([self.reader(features), self.other(features)], 1).mean((2, 3))


@pytest.mark.parametrize(
    ("other", "removed"),
    [
        (nn.Conv2d(6, 4, 3, padding=1), 1),
        (nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(6, 4, 3, padding=1)), 1),
        (nn.GroupNorm(3, 6), 0),
        (nn.PReLU(6), 0),
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), 0),
        (nn.Identity(), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_anything_unknown_or_the_caller_reads_stays(other, removed):
    network = unlike_fresh(Forked(other))
    silence(network.norm, {0: -1.0})
    assert removed_from(network, images_of(8)).filters == removed


def test_a_filter_that_is_only_nearly_constant_stays_until_the_activation_hides_it():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 3)))
    with torch.no_grad():
        network.norm.weight[:2], network.norm.bias[:2] = 5e-4, torch.tensor([0.2, -0.2])
    assert removed_from(network, images_of(8)).kept["first.weight"] == {0: [0, 2, 3, 4, 5]}


class Twice(nn.Module):
    """Uses a layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.classifier = nn.Linear(12 * 16, 5)

    def forward(self, images):
        features = F.relu(self.stem(images))
        both = torch.cat([F.relu(self.shared(features)), F.relu(self.shared(-features))], 1)
        return self.classifier(torch.flatten(F.max_pool2d(both, 2), 1))


def test_a_layer_that_is_used_twice_is_left_alone():
    network = unlike_fresh(Twice())
    silence(network.stem[1], {0: -1.0})
    with torch.no_grad():
        network.shared.weight[2], network.shared.bias[2] = 0, -1
    assert removed_from(network, images_of(8)).kept == {}


def test_a_residual_stream_goes_only_where_all_of_its_branches_are_constant():
    network = unlike_fresh(build_model("cifar_resnet8", 10, 32))
    silence(network.stem[1], {0: -1.0, 1: -1.0})
    # Channel 0 in all blocks, 1 in two of three, 20 from where it begins, 40 in the last block.
    for number, betas in enumerate(({0: 0.0, 1: 0.0}, {0: -0.5, 1: 0.0, 20: 0.0}, {0: -1.0, 20: -0.1, 40: -0.2})):
        silence(network.stages[number][0].second[1], betas)
    removed_from(network, images_of(16))
    widths = [network.stages[number][0].second[0].out_channels for number in range(3)]
    assert (network.stem[0].out_channels, widths, network.classifier.in_features) == (15, [15, 30, 61], 61)
    network.train()(images_of(16)).sum().backward()


@pytest.mark.parametrize(("name", "side_px"), [("mobilenet_v2", 32), ("densenet121", 32), ("squeezenet1_1", 48)])
def test_outputs_of_torchvisions_networks_stay(name, side_px):
    network = unlike_fresh(build_model(name, 10, side_px))
    draw = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            quiet = torch.rand(module.num_features, generator=draw) < 0.2
            silence(module, {int(index): -0.3 if index % 2 else 0.2 for index in quiet.nonzero()})
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.weight.data[torch.rand(module.out_channels, generator=draw) < 0.2] = 0
    weights = sum(parameter.numel() for parameter in network.parameters())
    whole = build_model(name, 10, side_px)
    removal = removed_from(network, images_of(side_px))
    left = sum(parameter.numel() for parameter in network.parameters())
    assert left < 0.8 * weights
    counted = [(module.out_channels, module.in_channels // module.groups) for module in network.modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(module.weight.shape[:2]) for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert counted == shapes
    filters = [sum(module.out_channels for module in one.modules() if isinstance(module, nn.Conv2d)) for one in (whole, network)]
    assert filters[0] - filters[1] == removal.filters
    # What was saved fits into a fresh network.
    fit_network(whole, network.state_dict())
    images = images_of(side_px)
    torch.testing.assert_close(whole.double().eval()(images), network(images))


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.0}, {"optimizer": "adamw"}, {"optimizer": "adam"}])
def test_the_optimizer_goes_on_as_with_filters_that_do_nothing(fields):
    config = dataclasses.replace(CONFIG, **{"weight_decay": 0.01, **fields})
    small = Plain(nn.Conv2d(6, 4, 3, padding=1))
    silence(small.norm, {0: -1.0, 3: -2.0})
    optimizer = build_optimizer(small, config)
    images = torch.randn(5, 3, 8, 8)
    step(small, optimizer, images)
    whole, whole_optimizer = copy.deepcopy((small, optimizer))
    removal = find_removal(small, filter_activities(small, [images], images[:1]), images[:1])
    remove(small, removal, optimizer)
    kept = [1, 2, 4, 5]
    assert removal.kept["first.weight"] == {0: kept}
    moments = {"sgd": ["momentum_buffer"] * (config.momentum > 0)}.get(config.optimizer, ["exp_avg", "exp_avg_sq"])
    for name in moments:
        found = [optimizer.state[parameter][name] for parameter in (small.first.weight, small.norm.bias, small.reader.weight)]
        plain = [whole_optimizer.state[parameter][name] for parameter in (whole.first.weight, whole.norm.bias, whole.reader.weight)]
        assert all(map(torch.equal, found, [plain[0][kept], plain[1][kept], plain[2][:, kept]]))
    for _ in range(2):
        step(small, optimizer, images)
        step(whole, whole_optimizer, images)
    torch.testing.assert_close(small.first.weight, whole.first.weight[kept])
    torch.testing.assert_close(small.norm.bias, whole.norm.bias[kept])
    torch.testing.assert_close(small.reader.weight, whole.reader.weight[:, kept])
    torch.testing.assert_close(small.norm.running_var, whole.norm.running_var[kept])


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network.train()(images), torch.arange(5) % 4).backward()
    optimizer.step()


def test_removals_in_a_row_are_one():
    assert chained({"a": {0: [1, 3, 5]}}, {"a": {0: [0, 2], 1: [4]}, "b": {1: [7]}}) == {"a": {0: [1, 5], 1: [4]}, "b": {1: [7]}}


def test_activity_is_that_of_every_image_at_once():
    network = unlike_fresh(Plain(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(inplace=True))).float()
    silence(network.norm, {0: -1.0, 1: 0.25})
    with torch.no_grad():
        network.norm.bias[2], network.norm.weight[3], network.norm.bias[3] = -0.3, 5e-4, 0.2
    images = images_of(8, 40).float() * torch.linspace(0.001, 1, 40)[:, None, None, None]
    found = filter_activities(network, images.split(7), images[:1])
    with torch.no_grad():
        activations = network.norm(network.first(images)).clamp(min=0)
        pooled = activations.flatten(2).max(2).values
        last = network.reader(activations)
    first = found["first"]
    torch.testing.assert_close(first.high, pooled.max(0).values)
    torch.testing.assert_close(first.low, activations.transpose(0, 1).flatten(1).min(1).values)
    shares = (pooled <= 1e-3 * pooled.max(0).values).float().mean(0)
    assert 0 < shares[2] < 1
    assert not ((pooled > 1e-3 * pooled.max(0).values) & (pooled < 1.13e-3 * pooled.max(0).values)).any()
    torch.testing.assert_close(first.selectivity.float(), shares)
    torch.testing.assert_close(found["reader"].low, last.transpose(0, 1).flatten(1).min(1).values)
    figures = sparsity_figures(found)
    # Gamma: 0, 1 and 3 of six; activation: 0 alone; the reader has no batch norm, and its four filters are active.
    assert (figures["filters"], figures["inactive"], figures["inactive_by_gamma.first"]) == (10, 0.3, 0.5)
    assert (figures["inactive_by_activation"], figures["inactive_by_activation.reader"]) == (0.1, 0)
    assert figures["selectivity.first"] == pytest.approx(float(shares.double().mean()))


def test_an_addition_into_a_filters_output_is_no_activation_of_it():
    class Residual(Plain):
        def forward(self, images):
            features = self.norm(self.first(images))
            features += 100
            return self.reader(features.relu_())

    network = unlike_fresh(Residual(nn.Conv2d(6, 4, 1)))
    images = images_of(8)
    assert filter_activities(network, [images], images[:1])["first"].high.max() < 50


def weights(network: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


def test_the_report_leaves_everything_as_it_is():
    network = build_model("cifar_resnet8", 10, 32).train()
    network.stem.eval()
    before, state = weights(network), torch.get_rng_state()
    # Drawn as they are asked for: loaders of image files draw too.
    filter_activities(network, (torch.randn(2, 3, 32, 32) for _ in range(2)), torch.zeros(1, 3, 32, 32))
    assert weights(network) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert not network.stem.training
    assert not any(module._forward_hooks for module in network.modules())


def test_a_training_with_a_report_is_the_training_without():
    reports = []
    reported = train(dataclasses.replace(CONFIG, filter_sparsity=FilterSparsity(name="report")), reports.append)
    assert weights(reported.model) == weights(train(CONFIG).model)
    assert [report.figures["filter_sparsity.filters"] for report in reports] == [240, 240]
    assert all(report.figures["filter_sparsity.inactive_by_activation.stages.0.0.first.0"] >= 4 / 16 for report in reports)


@functools.cache
def trained(name: str, sampling: str):
    reports = []
    config = dataclasses.replace(CONFIG, filter_sparsity=FilterSparsity(name=name), weight_sampling=WeightSampling(name=sampling, every=1))
    return config, train(config, reports.append), [report.figures["filter_sparsity.removed"] for report in reports]


@pytest.mark.parametrize(("name", "sampling"), [("remove_each_epoch", "pwalks"), ("remove_at_end", "none")])
def test_a_training_that_removes_filters_resumes_bit_same(name, sampling, tmp_path):
    config, whole, removed = trained(name, sampling)
    # Those that hold 0 for ever.
    assert removed[0] >= 12 if name == "remove_each_epoch" else removed == [0, 0]
    broken = dataclasses.replace(config, checkpoint=str(tmp_path))
    for _ in range(2):
        sitting = Training(broken)
        sitting.run_epoch()
    resumed = sitting.result()
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.curve == whole.curve
    assert all(stage[0].first[0].out_channels <= 12 + 16 * number for number, stage in enumerate(whole.model.stages) if number < 2)


def test_the_statistics_of_reduced_steps_shrink_with_the_network():
    training = Training(dataclasses.replace(CONFIG, filter_sparsity=FilterSparsity(name="remove_each_epoch")))
    training.run_epoch()
    statistics = training.downsampler.state_dict()["statistics"]
    assert statistics
    assert {name: value.shape for name, value in statistics.items()} == {
        name: value.shape for name, value in training.model.named_buffers()
    }
    assert training.downsampler.steps_done == 4


class Branching(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)

    def forward(self, images):
        features = self.first(images).mean((2, 3))
        return self.classifier(features if features.sum() < 0 else -features)


def test_a_network_that_cant_be_traced_is_refused_before_it_is_trained_but_reported():
    config = dataclasses.replace(CONFIG, model="test_filter_sparsity:Branching", schedule=Schedule(), epochs=1)
    for name in ("remove_at_end", "remove_each_epoch"):
        with pytest.raises(InputError, match=rf"filter_sparsity is {name}, but torch\.fx can't trace network Branching \(.*\): use report"):
            Training(dataclasses.replace(config, filter_sparsity=FilterSparsity(name=name)))
    assert Training(dataclasses.replace(config, filter_sparsity=FilterSparsity(name="report"))).run_epoch().figures


def test_so_is_one_that_trains_with_other_layers_than_it_is_evaluated_with():
    class Helped(Plain):
        def forward(self, images):
            return super().forward(images) + (self.norm(self.first(images)).mean() if self.training else 0)

    images = images_of(8)
    with pytest.raises(InputError, match="network Helped computes with other layers when it is evaluated"):
        find_removal(Helped(nn.Conv2d(6, 4, 1)), {}, images[:1])


def test_weights_that_dont_fit_are_refused():
    network = build_model("cifar_resnet8", 10, 32)
    state = network.state_dict()
    with pytest.raises(InputError, match=r"tensor 'stem\.0\.weight' of the weights is missing"):
        fit_network(network, {name: tensor for name, tensor in state.items() if name != "stem.0.weight"})
    with pytest.raises(
        InputError, match=r"'classifier\.bias' of the weights is \[11\], it must be there and fit into the network's \[10\]"
    ):
        fit_network(network, state | {"classifier.bias": torch.zeros(11)})
