"""Paddings of pooled layers in whole networks: no copies where the network allows, every convolution exact as it is padded."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg

from trainers.convolution import PooledConvolution
from trainers.downsampling import Downsampler
from trainers.errors import InputError
from trainers.geometry import Geometry, pooled_convolutions, pooled_kernels
from trainers.models import build_model
from trainers.schedule import Schedule, Step

POOLED = Step(16, "pooled")
# Network: full side, how many of its pooled layers copy their input to pad it, and how many pairs it has, in each of which one output is
# a pixel off. Counted by hand.
NETWORKS = {
    "cifar_resnet8": (32, 1, 3),  # copies the input of the stem, whose output the shortcut uses too; each block is a pair
    "cifar_resnet20": (32, 1, 9),
    "cifar_resnet18": (32, 1, 8),
    "resnet50": (64, 13, 0),  # 16 bottlenecks less the three whose 3x3 has a stride
    "mobilenet_v2": (64, 12, 1),  # 17 depthwise less four with a stride and the first, which the stem feeds alone
    "googlenet": (64, 19, 0),  # two in each of nine modules, and conv3 of the stem
    "densenet121": (64, 58, 0),
    "vgg11": (64, 2, 3),  # of its eight the first two are followed by a pooling layer
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network(name: str, full_px: int) -> nn.Module:
    # Without VGG's classifier of 100 million weights.
    return vgg.make_layers(vgg.cfgs["A"]) if name == "vgg11" else build_model(name, 5, full_px)


class Recorded:
    """Inputs and outputs of every Conv2d call of a forward pass, in order."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        self.calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        hooks = [
            layer.register_forward_hook(lambda _, inputs, output, name=name: self.calls.append((name, inputs[0].clone(), output.clone())))
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Conv2d)
        ]
        with torch.no_grad():
            self.output = model(images)
        for hook in hooks:
            hook.remove()


def first_taps(convolution: PooledConvolution, images: torch.Tensor) -> tuple[int, int]:
    """Where the first tap of the first window lies, from how the layer says that it pads."""
    if convolution.even is not None and tuple(images.shape[2:]) in convolution.even.at:
        return -convolution.even.padding[0], -convolution.even.padding[1]
    return -convolution.pads[0].left, -convolution.pads[1].left


def loop_response(convolution: PooledConvolution, images: torch.Tensor, channel: int, y: int, x: int) -> float:
    """One output of the first image, tap by tap, from the rules in downsampling.md."""
    layer = convolution.layer
    weight = layer.weight.detach().double()
    (kh, kw), (height, width) = layer.kernel_size, convolution.size
    top, left = first_taps(convolution, images)
    group = channel // (layer.out_channels // layer.groups) * weight.shape[1]
    total = 0.0 if layer.bias is None else float(layer.bias[channel].detach())
    for r, c in itertools.product(range(height), range(width)):
        row, column = top + y * layer.stride[0] + r * layer.dilation[0], left + x * layer.stride[1] + c * layer.dilation[1]
        if not (0 <= row < images.shape[2] and 0 <= column < images.shape[3]):
            continue
        rows, columns = slice(r * kh // height, -(-(r + 1) * kh // height)), slice(c * kw // width, -(-(c + 1) * kw // width))
        tap = weight[channel, :, rows, columns].mean((1, 2)) * (kh * kw / (height * width))
        total += float(tap @ images[0, group : group + weight.shape[1], row, column].double())
    return total


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_of_a_network_is_exact_as_it_is_padded(name: str) -> None:
    full_px, copies, pairs = NETWORKS[name]
    step = Step(full_px // 2, "pooled")
    model = network(name, full_px)
    images = torch.randn(2, 3, step.side_px, step.side_px)
    plain = Recorded(model, images)
    convolutions = {convolution.name: convolution for convolution in pooled_convolutions(model, step, full_px)}
    with pooled_kernels(list(convolutions.values())):
        pooled = Recorded(model, images)
    assert pooled.output.shape == plain.output.shape
    assert [call[0] for call in pooled.calls] == [call[0] for call in plain.calls]
    draw = torch.Generator().manual_seed(1)
    copied, moved = 0, 0
    for (layer_name, inputs, output), (_, _, own_output) in zip(pooled.calls, plain.calls, strict=True):
        moved += output.shape != own_output.shape
        if layer_name not in convolutions:
            assert output.shape == own_output.shape
            continue
        convolution = convolutions[layer_name]
        copied += convolution.copies_at(tuple(inputs.shape[2:]))
        for _ in range(2):
            _, channel, y, x = (int(torch.randint(size, (), generator=draw)) for size in output.shape)
            assert float(output[0, channel, y, x]) == pytest.approx(loop_response(convolution, inputs, channel, y, x), rel=1e-3, abs=1e-4)
    assert copied == copies
    assert moved == pairs


def test_inception_with_its_1x7_and_7x1_layers() -> None:
    model = build_model("inception_v3", 5, 160)
    images = torch.randn(2, 3, 80, 80)
    plain = Recorded(model, images)
    convolutions = {convolution.name: convolution for convolution in pooled_convolutions(model, Step(80, "pooled"), 160)}
    with pooled_kernels(list(convolutions.values())):
        pooled = Recorded(model, images)
    sizes = {(name, output.shape) for name, _, output in pooled.calls} ^ {(name, output.shape) for name, _, output in plain.calls}
    paired = {name for name, _ in sizes}
    assert paired <= {name for name, convolution in convolutions.items() if convolution.even is not None}
    assert {"Conv2d_2a_3x3.conv", "Mixed_5b.branch3x3dbl_2.conv"} <= paired
    by_name = {name: (inputs, output) for name, inputs, output in pooled.calls}
    for name in ("Mixed_6b.branch7x7_2.conv", "Mixed_6b.branch7x7_3.conv", "Mixed_5b.branch3x3dbl_2.conv", "Mixed_5b.branch3x3dbl_3.conv"):
        inputs, output = by_name[name]
        assert float(output[0, 3, 2, 1]) == pytest.approx(loop_response(convolutions[name], inputs, 3, 2, 1), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["cifar_resnet8", "vgg11"])
def test_windows_lie_half_a_pixel_off_at_most_and_pairs_cancel(name: str) -> None:
    full_px = NETWORKS[name][0]
    model = network(name, full_px)
    convolutions = pooled_convolutions(model, Step(full_px // 2, "pooled"), full_px)
    shifts = []
    for convolution in convolutions:
        # 3x3 with padding 1: the unpooled window is centred at 0; that of 2x2 at its first tap plus one half.
        padding = convolution.pads[0].left if convolution.even is None else convolution.even.padding[0]
        shifts.append(-padding + 0.5)
    assert set(shifts) == {-0.5, 0.5}
    assert abs(sum(shifts)) <= 0.5


def ones(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.ones_(layer.weight)
    return layer


def conv(stride: int = 1, **options: object) -> nn.Conv2d:
    return ones(nn.Conv2d(1, 1, 3, stride, **({"padding": 1, "bias": False} | options)))


def evens(model: nn.Module, step: Step = POOLED) -> list[str | None]:
    return [convolution.even and convolution.even.kind for convolution in pooled_convolutions(model, step, 2 * step.side_px)]


class Block(nn.Module):
    """A stem whose output is used twice, then two convolutions beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = conv(), conv(), conv()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        return features + self.second(F.relu(self.first(features)))


class TestPairs:
    def test_a_pair_is_centred_exactly_and_computes_no_larger_map(self) -> None:
        model = nn.Sequential(conv(), nn.ReLU(), conv())
        image = torch.zeros(1, 1, 16, 16)
        image[0, 0, 8, 5] = 1
        with pooled_kernels(pooled_convolutions(model, POOLED, 32)):
            between = model[0](image)
            output = model(image)[0, 0]
        # Each pooled filter of ones is four taps of 9/4; a row of two such pairs weighs three pixels 1, 2, 1.
        expected = torch.zeros(16, 16)
        row = torch.tensor([1.0, 2.0, 1.0])
        expected[7:10, 4:7] = row[:, None] * row * (9 / 4) ** 2
        torch.testing.assert_close(output, expected)
        assert between.shape[2:] == (15, 15)

    def test_a_strided_first_layer_is_the_wide_one(self) -> None:
        assert evens(nn.Sequential(conv(stride=2), nn.ReLU(), conv())) == ["wide", "narrow"]

    def test_a_strided_layer_needs_no_partner(self) -> None:
        assert evens(nn.Sequential(conv(stride=2))) == ["narrow"]
        assert evens(nn.Sequential(conv(stride=2)), Step(15, "pooled")) == ["wide"]  # 15 -> 8: (15 + 2 - 2) // 2 + 1

    def test_an_output_that_is_used_elsewhere_stays_as_it_is(self) -> None:
        assert evens(Block()) == [None, "narrow", "wide"]
        assert evens(nn.Sequential(conv(), nn.Conv2d(1, 1, 1), conv())) == [None, None]
        assert evens(nn.Sequential(conv())) == [None]

    def test_a_residual_stream_keeps_its_size_even_if_a_whole_stage_could_be_a_pixel_smaller(self) -> None:
        convolutions = pooled_convolutions(build_model("cifar_resnet18", 5, 32), POOLED, 32)
        assert [convolution.name for convolution in convolutions if convolution.even is None] == ["conv1"]

    def test_a_dense_network_keeps_its_sizes(self) -> None:
        class Dense(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = conv(), ones(nn.Conv2d(2, 1, 3, padding=1))

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.second(torch.cat([images, self.first(images)], 1))

        assert evens(Dense()) == [None, None]

    def test_what_the_graph_does_not_show_is_seen_by_running_the_pairs(self) -> None:
        class Detached(Block):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                middle = self.first(images)
                return self.second(middle) + middle.detach()

        class Looked(Block):
            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                middle = self.first(images)
                return self.second(middle), middle.detach()

        class Reshaped(Block):
            """The first pair is refused, by an exception; the other one must not go with it."""

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                middle = self.stem(images).reshape(-1, 1, 16, 16)
                return self.second(F.relu(self.first(F.max_pool2d(self.extra(middle), 2))))

        reshaped = Reshaped()
        reshaped.extra = conv()
        assert evens(Detached()) == [None, None, None]  # the stem is not called: last, padded
        assert evens(Looked()) == [None, None, None]
        assert evens(reshaped) == [None, None, "narrow", "wide"]

    def test_layers_that_run_twice_have_no_partner(self) -> None:
        class Twice(Block):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.second(self.first(images)) + self.first(images).mean()

        assert evens(Twice()) == [None, None, None]

    @pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"padding": "same"}, {"padding": 0}])
    def test_other_paddings_keep_the_output_size(self, options: dict[str, object]) -> None:
        model = nn.Sequential(conv(**options), conv(**options))
        images = torch.randn(1, 1, 16, 16)
        expected = model(images).shape
        with pooled_kernels(pooled_convolutions(model, POOLED, 32)):
            assert model(images).shape == expected
        # 'same' pads one pixel on each side here, as 1 does; without padding there is nothing to take off.
        assert evens(model) == (["narrow", "wide"] if options == {"padding": "same"} else [None, None])

    def test_1x7_layers_are_paired_along_their_own_axis(self) -> None:
        def across() -> nn.Conv2d:
            return nn.Conv2d(1, 1, (1, 7), padding=(0, 3))

        def down() -> nn.Conv2d:
            return nn.Conv2d(1, 1, (7, 1), padding=(3, 0))

        model = nn.Sequential(across(), across(), down())
        assert evens(model) == ["narrow", "wide", None]
        with pooled_kernels(pooled_convolutions(model, POOLED, 32)):
            assert model[0](torch.randn(1, 1, 16, 16)).shape[2:] == (16, 15)
            assert model(torch.randn(1, 1, 16, 16)).shape[2:] == (16, 16)


class TestOtherSizes:
    @pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18"])
    def test_images_that_are_not_square_keep_every_size(self, name: str) -> None:
        model = build_model(name, 5, 64)
        downsampler = Downsampler(model, Schedule(frequency=1, kernel="pooled"), 1, 64)
        plain = Recorded(model, torch.randn(2, 3, 32, 41))
        with downsampler.step(torch.randn(2, 3, 64, 82)) as images:
            pooled = Recorded(model, images)
        assert [output.shape for *_, output in pooled.calls] == [output.shape for *_, output in plain.calls]

    def test_a_network_that_needs_numbers_is_padded(self) -> None:
        class Looking(Block):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return super().forward(images) if images.sum().item() < 1e9 else images

        assert evens(Looking()) == [None] * 3
        images = torch.randn(1, 1, 16, 16)
        with pooled_kernels(pooled_convolutions(Looking(), POOLED, 32)):
            assert Looking()(images).shape == images.shape

    def test_tracing_leaves_the_network_and_the_random_state_alone(self) -> None:
        class Counting(Block):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm2d(1)
                self.calls = 0

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return F.dropout(self.norm(super().forward(images)), 0.5, self.training)

        model = Counting().eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        random_state = torch.get_rng_state()
        assert evens(model) == [None, "narrow", "wide"]
        assert model.calls == 0
        assert not model.training
        assert torch.equal(random_state, torch.get_rng_state())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not any("_conv_forward" in vars(layer) or layer._forward_hooks for layer in model.modules())


class TestGeometry:
    def test_each_kind_is_worked_out_once_whatever_its_batches(self) -> None:
        geometry = Geometry(Block(), 32)
        assert geometry.convolutions(POOLED) is geometry.convolutions(POOLED._replace(batches=4))
        assert geometry.convolutions(POOLED) is not geometry.convolutions(Step(12, "pooled"))
        assert geometry.convolutions(Step(16, "full")) == []

    def test_a_layer_can_be_pooled_by_one_at_a_time(self) -> None:
        convolutions = pooled_convolutions(Block(), POOLED, 32)
        with pooled_kernels(convolutions), pytest.raises(InputError, match=r"^the kernel of layer 'stem' can't be pooled"):
            pooled_kernels(convolutions).__enter__()
        with pooled_kernels(convolutions):
            pass

    def test_the_optimizer_steps_are_those_of_the_plan_where_batches_grow(self) -> None:
        schedule = Schedule(frequency=1, window_length=0.5, batch_growth="constant_work", kernel="pooled")
        downsampler = Downsampler(Block(), schedule, 16, 32, steps_per_epoch=8)
        assert downsampler.plan.counts() == {Step(16, "pooled", 4): 2, Step(32, "full"): 8}
        assert downsampler.state_dict()["total_steps"] == 16
        with downsampler.step(torch.randn(4, 1, 16, 16)) as images:  # already at the step's side
            assert Recorded(downsampler.model, images).calls[1][2].shape[2:] == (15, 15)
        assert math.prod(images.shape) == 4 * 16 * 16
        other = Downsampler(Block(), schedule, 16, 32, steps_per_epoch=16)
        with pytest.raises(InputError, match=r"^steps_per_epoch is 16 here and 8 in the checkpoint"):
            other.load_state_dict(downsampler.state_dict())
