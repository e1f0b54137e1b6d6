"""Reduced steps against plain loops over pixels and taps, against autograd in float64, and on real networks."""

import copy
import io
import itertools
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from trainers.downsampling import Downsampler, check_sides, pool_kernel, resize
from trainers.errors import InputError
from trainers.schedule import Schedule, Step

FULL = Step(32, "full")
HALF = Step(16, "full")
POOLED = Step(16, "pooled")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def adapter(model: nn.Module, full_px: int = 32, total_steps: int = 4, **fields: object) -> Downsampler:
    return Downsampler(model, Schedule(**({"frequency": 1} | fields)), total_steps, full_px)


# ---- the reference: plain loops, written from the rules in downsampling.md and from nothing in the code ----


def loop_pooled_kernel(weight: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Output tap i averages the taps from floor(i k / k') up to but without ceil((i+1) k / k'); then times k^2 / k'^2."""
    out_channels, in_channels, kh, kw = weight.shape
    pooled = np.zeros((out_channels, in_channels, *size))
    for o, i, y, x in itertools.product(range(out_channels), range(in_channels), range(size[0]), range(size[1])):
        rows = range(y * kh // size[0], math.ceil((y + 1) * kh / size[0]))
        columns = range(x * kw // size[1], math.ceil((x + 1) * kw / size[1]))
        taps = [weight[o, i, r, c] for r in rows for c in columns]
        pooled[o, i, y, x] = sum(taps) / len(taps) * kh * kw / (size[0] * size[1])
    return pooled


def outside(position: int, length: int, mode: str) -> int | None:
    """The pixel that padding puts at a position beyond the edge, None for a zero."""
    if 0 <= position < length:
        return position
    if mode == "reflect":
        return -position if position < 0 else 2 * (length - 1) - position
    if mode == "replicate":
        return min(max(position, 0), length - 1)
    return position % length if mode == "circular" else None


def loop_convolution(images, weight, bias, first, out_size, stride, dilation, groups, mode) -> np.ndarray:
    """`first`: position (y, x) of the first tap of the first output pixel, negative where it lies in the padding."""
    n, _, height, width = images.shape
    out_channels, group_in, kh, kw = weight.shape
    output = np.zeros((n, out_channels, *out_size))
    for b, o, y, x in itertools.product(range(n), range(out_channels), range(out_size[0]), range(out_size[1])):
        group = o // (out_channels // groups)
        total = 0.0 if bias is None else bias[o]
        for i, r, c in itertools.product(range(group_in), range(kh), range(kw)):
            row = outside(first[0] + y * stride[0] + r * dilation[0], height, mode)
            column = outside(first[1] + x * stride[1] + c * dilation[1], width, mode)
            if row is not None and column is not None:
                total += weight[o, i, r, c] * images[b, group * group_in + i, row, column]
        output[b, o, y, x] = total
    return output


# Layer, pooled size at half the side, where the first tap of the pooled window lies. A symmetric padding p puts the first unpooled tap
# at -p; half of the d(k-k') pixels that the window loses come off before it. By hand: 3x3 pad 1: 3 -> 2 loses one pixel, off the right
# in the first layer, so the first tap stays at -1. 5x5 pad 2: 5 -> 3 loses two, -2 + 1 = -1. 7x7 pad 3: 7 -> 4 loses three, -3 + 1 = -2.
LAYERS = {
    "3x3": (lambda **k: nn.Conv2d(2, 3, 3, padding=1, **k), (2, 2), (-1, -1)),
    "3x3 bias=False": (lambda **k: nn.Conv2d(2, 3, 3, padding=1, bias=False, **k), (2, 2), (-1, -1)),
    "3x3 unpadded (crops)": (lambda **k: nn.Conv2d(2, 3, 3, **k), (2, 2), (0, 0)),
    "3x3 stride 2": (lambda **k: nn.Conv2d(2, 3, 3, padding=1, stride=2, **k), (2, 2), (-1, -1)),
    "3x3 dilation 2": (lambda **k: nn.Conv2d(2, 3, 3, padding=2, dilation=2, **k), (2, 2), (-1, -1)),
    "3x3 groups": (lambda **k: nn.Conv2d(4, 6, 3, padding=1, groups=2, **k), (2, 2), (-1, -1)),
    "3x3 depthwise": (lambda **k: nn.Conv2d(3, 6, 3, padding=1, groups=3, **k), (2, 2), (-1, -1)),
    "3x3 same": (lambda **k: nn.Conv2d(2, 3, 3, padding="same", **k), (2, 2), (-1, -1)),
    "3x3 valid": (lambda **k: nn.Conv2d(2, 3, 3, padding="valid", **k), (2, 2), (0, 0)),
    "4x4 same, asymmetric itself": (lambda **k: nn.Conv2d(2, 3, 4, padding="same", **k), (2, 2), (0, 0)),
    "5x5": (lambda **k: nn.Conv2d(2, 3, 5, padding=2, **k), (3, 3), (-1, -1)),
    "5x5 unpadded (crops)": (lambda **k: nn.Conv2d(2, 3, 5, **k), (3, 3), (1, 1)),
    "5x5 same, dilation 2, depthwise": (lambda **k: nn.Conv2d(2, 2, 5, padding="same", dilation=2, groups=2, **k), (3, 3), (-2, -2)),
    "7x7 stride 2": (lambda **k: nn.Conv2d(2, 3, 7, padding=3, stride=2, **k), (4, 4), (-2, -2)),
    "1x7": (lambda **k: nn.Conv2d(2, 3, (1, 7), padding=(0, 3), **k), (1, 4), (0, -2)),
    "3x1": (lambda **k: nn.Conv2d(2, 3, (3, 1), padding=(1, 0), **k), (2, 1), (-1, 0)),
    "3x5 uneven everything": (
        lambda **k: nn.Conv2d(2, 3, (3, 5), padding=(0, 3), stride=(1, 2), dilation=(2, 1), **k),
        (2, 3),
        (1, -2),
    ),
}
# With a stride and zeros, a symmetric padding keeps the output size on the step's 16 px: it takes the odd pixel off the left.
ZEROS_FIRST = {"3x3 stride 2": (0, 0), "7x7 stride 2": (-1, -1)}
MODES = ("zeros", "reflect", "replicate", "circular")


class TestPooledConvolution:
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's own, of the unpooled layer
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("images_px", [(9, 10), (16, 16)])
    def test_equals_plain_loops(self, name: str, mode: str, images_px: tuple[int, int]) -> None:
        make, size, first = LAYERS[name]
        if mode == "zeros":
            first = ZEROS_FIRST.get(name, first)
        layer = make(padding_mode=mode, dtype=torch.float64)
        images = torch.randn(1, layer.in_channels, *images_px, dtype=torch.float64)
        unpooled = layer(images)
        with adapter(layer).run_as(POOLED):
            output = layer(images)
        expected = loop_convolution(
            images.numpy(),
            loop_pooled_kernel(layer.weight.detach().numpy(), size),
            None if layer.bias is None else layer.bias.detach().numpy(),
            first,
            unpooled.shape[2:],
            layer.stride,
            layer.dilation,
            layer.groups,
            mode,
        )
        np.testing.assert_allclose(output.detach().numpy(), expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("mode", MODES)
    def test_the_odd_pixel_changes_sides_from_layer_to_layer(self, mode: str) -> None:
        # Of a single bright pixel the first layer shows a 2x2 block below and right of the second one's; together they are centred.
        first, second, third = (nn.Conv2d(1, 1, 3, padding=1, bias=False, padding_mode=mode) for _ in range(3))
        point = nn.Conv2d(1, 1, 1)  # has nothing to pool, so it takes no turn
        model = nn.Sequential(first, point, second, third)
        for layer in (first, second, third):
            nn.init.ones_(layer.weight)
        image = torch.zeros(1, 1, 9, 9)
        image[0, 0, 4, 4] = 1
        with adapter(model).run_as(POOLED):
            lit = [layer(image)[0, 0].nonzero().tolist() for layer in (first, second, third)]
            both = second(first(image))[0, 0]
        assert lit[0] == lit[2] == [[4, 4], [4, 5], [5, 4], [5, 5]]
        assert lit[1] == [[3, 3], [3, 4], [4, 3], [4, 4]]
        torch.testing.assert_close(both, both.flip(0, 1))

    def test_each_axis_takes_its_own_turn(self) -> None:
        # 1x7, 7x1, 1x7, 7x1 as in Inception: along each axis the two layers' shifts must cancel.
        across, down = (
            (lambda: nn.Conv2d(1, 1, (1, 7), padding=(0, 3), bias=False)),
            (lambda: nn.Conv2d(1, 1, (7, 1), padding=(3, 0), bias=False)),
        )
        model = nn.Sequential(across(), down(), across(), down())
        for layer in model:
            nn.init.ones_(layer.weight)
        image = torch.zeros(1, 1, 21, 21)
        image[0, 0, 10, 10] = 1
        with adapter(model).run_as(POOLED):
            output = model(image)[0, 0]
        torch.testing.assert_close(output, output.flip(0, 1))

    def test_a_1x1_layer_is_left_alone(self) -> None:
        layer = nn.Conv2d(2, 3, 1, stride=2)
        images = torch.randn(2, 2, 9, 9)
        with adapter(layer).run_as(POOLED):
            assert "_conv_forward" not in vars(layer)
            assert torch.equal(layer(images), F.conv2d(images, layer.weight, layer.bias, stride=2))

    def test_full_kernels_leave_every_layer_alone(self) -> None:
        layer = nn.Conv2d(2, 3, 3, padding=1)
        images = torch.randn(2, 2, 16, 16)
        with adapter(layer).run_as(HALF):
            assert torch.equal(layer(images), F.conv2d(images, layer.weight, layer.bias, padding=1))

    def test_output_sizes_equal_those_of_the_unpooled_filter(self) -> None:
        sizes = itertools.product((9, 10, 13), (2, 3, 4, 5, 7), (1, 2, 3), (0, 1, 3), (1, 2))
        tried = 0
        for n, kernel, stride, padding, dilation in sizes:
            if n + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
            images = torch.zeros(1, 1, n, n + 1)
            expected = layer(images).shape
            for side_px in (8, 12, 16, 24, 28):
                with adapter(layer).run_as(Step(side_px, "pooled")):
                    assert layer(images).shape == expected, (n, kernel, stride, padding, dilation, side_px)
                    tried += 1
        assert tried > 1000

    @pytest.mark.parametrize("kernel", [3, 5, 7, (3, 5), (1, 7)])
    def test_a_constant_image_keeps_its_response(self, kernel: int | tuple[int, int]) -> None:
        # Of any filter whose windows weigh each tap alike, here a constant one: response = 2 * in * kh * kw * value, by hand.
        layer = nn.Conv2d(2, 1, kernel, bias=False)
        nn.init.constant_(layer.weight, 0.25)
        images = torch.full((1, 2, 12, 12), 3.0)
        with adapter(layer).run_as(POOLED):
            output = layer(images)
        torch.testing.assert_close(output, torch.full_like(output, 2 * math.prod(layer.kernel_size) * 0.25 * 3))

    def test_a_layer_used_twice_is_pooled_twice(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Conv2d(2, 2, 3, padding=1)
                self.same = self.first

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.same(self.first(images))

        model = Twice()
        images = torch.randn(1, 2, 8, 8)
        with adapter(model).run_as(POOLED):
            output = model(images)
        pooled = pool_kernel(model.first.weight, (2, 2))
        once = F.conv2d(F.pad(images, (1, 0, 1, 0)), pooled, model.first.bias)
        torch.testing.assert_close(output, F.conv2d(F.pad(once, (1, 0, 1, 0)), pooled, model.first.bias))

    def test_parametrized_weights_are_pooled_as_they_are_used(self) -> None:
        layer = weight_norm(nn.Conv2d(2, 3, 3, padding=1))
        images = torch.randn(1, 2, 8, 8)
        with adapter(layer).run_as(POOLED):
            output = layer(images)
        torch.testing.assert_close(output, F.conv2d(F.pad(images, (1, 0, 1, 0)), pool_kernel(layer.weight, (2, 2)), layer.bias))
        output.sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())

    def test_symmetric_zero_pads_are_left_to_the_convolution(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A padded copy of the images costs what pooling saves.
        layer = nn.Conv2d(2, 3, 5, padding=2)
        monkeypatch.setattr(F, "pad", lambda *_, **__: pytest.fail("the images were copied"))
        with adapter(layer).run_as(POOLED):
            layer(torch.randn(1, 2, 8, 8))


class TestPoolKernel:
    @pytest.mark.parametrize(("kernel", "size"), [((3, 3), (2, 2)), ((5, 5), (3, 3)), ((7, 7), (4, 4)), ((1, 7), (1, 4)), ((4, 3), (3, 1))])
    def test_equals_plain_loops(self, kernel: tuple[int, int], size: tuple[int, int]) -> None:
        for channels in ((3, 2), (4, 2)):  # filters are multiplied four at a time where their number allows
            weight = torch.randn(*channels, *kernel, dtype=torch.float64)
            np.testing.assert_allclose(pool_kernel(weight, size).numpy(), loop_pooled_kernel(weight.numpy(), size), rtol=0, atol=1e-14)

    def test_a_3x3_filter_by_hand(self) -> None:
        weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
        # Means of the four 2x2 windows, (1+2+4+5)/4 = 3 and so on, times 9/4.
        assert pool_kernel(weight, (2, 2)).tolist() == [[[[6.75, 9.0], [13.5, 15.75]]]]

    def test_a_constant_filter_keeps_its_sum(self) -> None:
        for kernel, size in itertools.product(itertools.product(range(1, 8), repeat=2), ((1, 1), (2, 3), (4, 2))):
            if size[0] <= kernel[0] and size[1] <= kernel[1]:
                pooled = pool_kernel(torch.full((1, 1, *kernel), 0.5, dtype=torch.float64), size)
                assert pooled.sum().item() == pytest.approx(0.5 * math.prod(kernel), rel=1e-12)

    def test_the_weight_itself_where_nothing_changes(self) -> None:
        weight = torch.randn(2, 2, 3, 3)
        assert pool_kernel(weight, (3, 3)) is weight

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_keeps_the_dtype_also_under_autocast(self, dtype: torch.dtype) -> None:
        weight = torch.randn(2, 2, 3, 3, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = pool_kernel(weight, (2, 2))
        assert pooled.dtype == dtype
        assert torch.equal(pooled, pool_kernel(weight, (2, 2)))

    def test_channels_last_weights(self) -> None:
        weight = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(pool_kernel(weight.to(memory_format=torch.channels_last), (3, 3)), pool_kernel(weight, (3, 3)))

    def test_first_use_under_inference_mode_does_not_spoil_training(self) -> None:
        weight = torch.randn(1, 1, 6, 5, requires_grad=True)  # a size that no other test pools, because the matrix is kept
        with torch.inference_mode():
            pool_kernel(weight, (3, 4))
        pool_kernel(weight, (3, 4)).sum().backward()
        assert weight.grad is not None


class TestGradients:
    @pytest.mark.parametrize(("kernel", "size"), [((3, 3), (2, 2)), ((5, 5), (3, 3)), ((1, 7), (1, 4))])
    def test_through_pool_kernel(self, kernel: tuple[int, int], size: tuple[int, int]) -> None:
        weight = torch.randn(2, 2, *kernel, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda w: pool_kernel(w, size), (weight,))
        assert torch.autograd.gradgradcheck(lambda w: pool_kernel(w, size) ** 2, (weight,))

    @pytest.mark.parametrize(
        "name", ["3x3", "3x3 unpadded (crops)", "3x3 groups", "5x5 same, dilation 2, depthwise", "3x5 uneven everything"]
    )
    @pytest.mark.parametrize("mode", ["zeros", "reflect"])
    def test_through_a_pooled_convolution(self, name: str, mode: str) -> None:
        layer = LAYERS[name][0](padding_mode=mode, dtype=torch.float64)
        images = torch.randn(1, layer.in_channels, 6, 7, dtype=torch.float64, requires_grad=True)

        downsampler = adapter(layer)

        def run(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            with downsampler.run_as(POOLED):
                return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (images,))

        assert torch.autograd.gradcheck(run, (images, layer.weight, layer.bias))

    def test_the_gradient_reaches_the_original_parameter_and_its_optimizer(self) -> None:
        layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        weight = layer.weight
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9)
        before = weight.detach().clone()
        downsampler = adapter(layer, kernel="pooled")
        with downsampler.step(torch.ones(1, 1, 32, 32)) as images:
            # One output pixel away from the edges: d output / d pooled tap = 1, so d output / d tap = 9/4 * (windows that hold it) / 4.
            layer(images)[0, 0, 8, 8].backward()
        optimizer.step()
        holds = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
        torch.testing.assert_close(weight.grad[0, 0], holds * 9 / 16)
        torch.testing.assert_close(layer.weight, before - weight.grad)
        assert layer.weight is weight
        assert list(optimizer.state) == [weight]

    def test_recomputed_activations_see_the_same_kernels(self) -> None:
        layer = nn.Conv2d(2, 2, 3, padding=1)
        grads = []
        for run in (layer, lambda images: checkpoint(layer, images, use_reentrant=False)):
            layer.zero_grad()
            with adapter(layer, kernel="pooled").step(torch.arange(2 * 2 * 32 * 32.0).reshape(2, 2, 32, 32)) as images:
                run(images).square().mean().backward()
            grads.append(layer.weight.grad.clone())
        assert torch.equal(*grads)


class TestResize:
    def test_the_image_itself_at_its_own_size(self) -> None:
        images = torch.rand(2, 3, 16, 20)
        assert resize(images, 16) is images

    @pytest.mark.parametrize(
        ("shape", "side_px", "size"),
        [((32, 32), 16, (16, 16)), ((30, 45), 20, (20, 30)), ((45, 30), 20, (30, 20)), ((10, 25), 5, (5, 13)), ((8, 8), 12, (12, 12))],
    )
    def test_the_shorter_side_and_the_longer_in_proportion(self, shape, side_px: int, size) -> None:
        assert resize(torch.rand(1, 3, *shape), side_px).shape[2:] == size

    def test_is_an_antialiased_bilinear_filter(self) -> None:
        # Halving: a triangle of half-width 2 px around the new pixel's centre weighs its four old pixels 1, 3, 3, 1 (of 8,
        # at the edge, where one is missing, of 7).
        row = torch.tensor([0.0, 0, 8, 0, 0, 0, 0, 0])
        image = row.expand(8, 8)[None, None]
        torch.testing.assert_close(resize(image, 4)[0, 0], torch.tensor([8 / 7, 3, 0, 0]).expand(4, 4))

    def test_a_constant_image_stays_constant_and_fine_stripes_become_grey(self) -> None:
        torch.testing.assert_close(resize(torch.full((1, 1, 32, 32), 0.7), 12), torch.full((1, 1, 12, 12), 0.7))
        stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(1, 1, 32, 32)
        assert (resize(stripes, 16)[..., 1:-1] - 0.5).abs().max() < 1e-6

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_keeps_dtype_and_memory_format(self, dtype: torch.dtype) -> None:
        images = (torch.rand(2, 3, 32, 32) * 200).to(dtype)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            resized = resize(images.to(memory_format=memory_format), 16)
            assert resized.dtype == dtype
            assert resized.is_contiguous(memory_format=memory_format)


class TestStep:
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def test_steps_follow_the_plan(self) -> None:
        downsampler = adapter(self.model(), total_steps=4, frequency=0.5, kernel="pooled")
        seen = []
        for _ in range(4):
            with downsampler.step(torch.rand(2, 3, 32, 40)) as images:
                seen.append((tuple(images.shape[2:]), "_conv_forward" in vars(downsampler.model[0])))
        assert seen == [((32, 40), False), ((16, 20), True)] * 2
        assert downsampler.steps_done == 4
        assert downsampler.plan == (FULL, POOLED) * 2

    def test_a_full_step_is_the_plain_network_to_the_bit(self) -> None:
        model = self.model()
        plain = copy.deepcopy(model)
        images = torch.rand(2, 3, 32, 32)
        before = dict(vars(model[0]))
        with adapter(model, frequency=0.5, kernel="pooled", batch_norm="separate").step(images) as same:
            assert same is images
            assert vars(model[0]) == before
            model(same).sum().backward()
        plain(images).sum().backward()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True))

    def test_evaluation_between_steps_uses_the_full_network(self) -> None:
        model = self.model()
        weights = copy.deepcopy(model.state_dict())
        downsampler = adapter(model, kernel="pooled", frequency=0.5, batch_norm="separate", total_steps=6)
        images = torch.rand(2, 3, 32, 32)
        for _ in range(6):
            with downsampler.step(images) as now, torch.no_grad():
                model(now)
        plain = self.model()
        plain.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(model.eval()(images), plain.eval()(images))
        assert list(weights) == list(model.state_dict())

    def test_an_exported_network_is_the_full_one(self) -> None:
        model = self.model().eval()
        with adapter(model, kernel="pooled").step(torch.rand(2, 3, 32, 32)) as images:
            model(images)
        traced = torch.export.export(model, (torch.rand(2, 3, 32, 32),))
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(traced.module()(images), model(images))

    def test_an_exception_restores_everything_and_counts_nothing(self) -> None:
        model = self.model()
        downsampler = adapter(model, frequency=1, kernel="pooled", batch_norm="separate", window_length=0.5)
        buffers = [id(buffer) for buffer in model.buffers()]

        def fail() -> None:
            with downsampler.step(torch.rand(2, 3, 32, 32)) as images:
                model(images)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert downsampler.steps_done == 0
        assert "_conv_forward" not in vars(model[0])
        assert [id(buffer) for buffer in model.buffers()] == buffers
        with downsampler.step(torch.rand(2, 3, 32, 32)) as images:
            assert images.shape[-1] == 16
        assert downsampler.steps_done == 1

    def test_past_the_last_step(self) -> None:
        downsampler = adapter(self.model(), total_steps=1)
        with downsampler.step(torch.rand(2, 3, 32, 32)):
            pass
        with pytest.raises(InputError, match=r"^all 1 planned steps are done: give the Downsampler the training's true total_steps$"):
            downsampler.step(torch.rand(2, 3, 32, 32)).__enter__()

    def test_images_of_another_side(self) -> None:
        downsampler = adapter(self.model())
        with pytest.raises(InputError, match=r"^the shorter side of the images is 64 px, it must be full_px, which is 32$"):
            downsampler.step(torch.rand(2, 3, 64, 96)).__enter__()
        with downsampler.step(torch.rand(2, 3, 16, 16)) as images:  # already at the step's side
            assert images.shape[-1] == 16

    def test_run_as_counts_nothing(self) -> None:
        downsampler = adapter(self.model())
        with downsampler.run_as(POOLED) as nothing:
            assert "_conv_forward" in vars(downsampler.model[0])
        assert nothing is None
        assert downsampler.steps_done == 0

    def test_training_in_the_readme_form_learns(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        )
        downsampler = adapter(model, total_steps=60, frequency=0.5, kernel="pooled")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        labels = torch.arange(32) % 2
        batch = torch.rand(32, 1, 32, 32) * 0.1 + labels.reshape(-1, 1, 1, 1) * torch.linspace(0, 1, 32)
        for _ in range(60):
            with downsampler.step(batch) as images:
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (model.eval()(batch).argmax(1) == labels).all()


class OwnForward(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, self.weight - self.weight.mean(), self.bias, padding=self.padding)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return super()._conv_forward(images * 2, weight, bias)


class StandardisedConv(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)


class ScaledConv(StandardisedConv):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 2


class DisguisedConv(OwnForward):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 2


class TestConvolutionsOfTheUser:
    @pytest.mark.parametrize("layer_type", [OwnForward, OwnConvForward, DisguisedConv])
    def test_one_that_computes_by_itself_is_refused_only_if_pooled(self, layer_type: type[nn.Conv2d]) -> None:
        model = nn.Sequential(OrderedDict(stem=layer_type(3, 4, 3, padding=1)))
        with pytest.raises(InputError, match=rf"layer 'stem' can't be pooled, because its class {layer_type.__name__} .*kernel 'full'"):
            adapter(model, kernel="pooled")
        adapter(model, kernel="full")
        adapter(nn.Sequential(layer_type(3, 4, 1)), kernel="pooled")

    @pytest.mark.parametrize(("layer_type", "factor"), [(StandardisedConv, 1), (ScaledConv, 2)])
    def test_one_that_goes_through_conv_forward_is_pooled(self, layer_type: type[nn.Conv2d], factor: int) -> None:
        layer = layer_type(2, 3, 5, padding=2)
        images = torch.randn(1, 2, 8, 8)
        with adapter(layer, kernel="pooled").run_as(POOLED):
            output = layer(images)
        expected = F.conv2d(images, pool_kernel(layer.weight - layer.weight.mean(), (3, 3)), layer.bias, padding=1)
        torch.testing.assert_close(output, expected * factor)

    def test_one_patched_by_someone_else_is_refused(self) -> None:
        layer = nn.Conv2d(2, 3, 3)
        layer._conv_forward = lambda images, weight, bias: images
        with pytest.raises(InputError, match="can't be pooled"):
            adapter(layer, kernel="pooled")


NETWORKS = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "densenet121")


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks_train_on_pooled_half_side_steps(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None, num_classes=5)
    keys, parameters = list(model.state_dict()), [id(parameter) for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    downsampler = adapter(model, full_px=64, total_steps=2, frequency=0.5, kernel="pooled", batch_norm="separate")
    for _ in range(2):
        # The last maps have one pixel: batch norm over two values would turn rounding errors into gradients of any size.
        with downsampler.step(torch.rand(8, 3, 64, 64)) as images:
            model(images).sum().backward()
            assert list(model.state_dict()) == keys
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert downsampler.plan[1] == Step(32, "pooled")
    assert [id(parameter) for parameter in model.parameters()] == parameters
    plain = torchvision.models.get_model(name, weights=None, num_classes=5)
    plain.load_state_dict(model.state_dict(), strict=True)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(images), plain.eval()(images))
    assert model(images).isfinite().all()


class TestBatchNorm:
    def train(self, batch_norm: str, plan_frequency: float = 0.5) -> tuple[nn.BatchNorm2d, Downsampler]:
        """Four steps, every second one reduced: full steps see ones, reduced ones threes. Momentum 0.1, running mean from 0."""
        layer = nn.BatchNorm2d(1)
        downsampler = adapter(layer, total_steps=4, frequency=plan_frequency, batch_norm=batch_norm)
        for step in downsampler.plan:
            with downsampler.step(torch.full((2, 1, 32, 32), 1.0 if step == FULL else 3.0)) as images:
                layer(images)
        return layer, downsampler

    def test_shared_statistics_mix(self) -> None:
        layer, downsampler = self.train("shared")
        # 0 -> 0.1 -> 0.09 + 0.3 = 0.39 -> 0.351 + 0.1 = 0.451 -> 0.4059 + 0.3 = 0.7059
        assert layer.running_mean.item() == pytest.approx(0.7059)
        assert layer.num_batches_tracked.item() == 4
        assert downsampler.state_dict()["statistics"] == {}

    def test_separate_statistics_of_full_steps_never_see_a_reduced_one(self) -> None:
        layer, downsampler = self.train("separate")
        # Network: 0 -> 0.1 -> 0.19, variance 1 -> 0.9 -> 0.81 (the images have none).
        assert layer.running_mean.item() == pytest.approx(0.19)
        assert layer.running_var.item() == pytest.approx(0.81)
        assert layer.num_batches_tracked.item() == 2
        # Reduced: start at the network's after one full step (0.1, 0.9, 1), then 0.09 + 0.3 = 0.39 -> 0.351 + 0.3 = 0.651.
        own = downsampler.state_dict()["statistics"]
        assert own[".running_mean"].item() == pytest.approx(0.651)
        assert own[".running_var"].item() == pytest.approx(0.729)
        assert own[".num_batches_tracked"].item() == 3

    def test_without_any_full_step_separate_acts_as_shared(self) -> None:
        layer, _ = self.train("separate", plan_frequency=1)
        assert layer.num_batches_tracked.item() == 4
        assert layer.running_mean.item() == pytest.approx(3 * (1 - 0.9**4))

    def test_weight_and_bias_are_shared(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(1))
        with adapter(model, frequency=1, batch_norm="separate", window_length=0.5).step(torch.rand(2, 1, 32, 32)) as images:
            model(images).square().sum().backward()
        assert model[0].weight.grad.abs() > 0

    def test_layers_without_running_statistics_are_left_alone(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.InstanceNorm2d(1, track_running_stats=True))
        downsampler = adapter(model, frequency=1, batch_norm="separate", window_length=0.5)
        with downsampler.step(torch.rand(2, 1, 32, 32)) as images:
            model(images)
        assert downsampler.state_dict()["statistics"] == {}

    def test_statistics_follow_the_network_to_another_dtype(self) -> None:
        model = nn.BatchNorm2d(1)
        downsampler = adapter(model, frequency=1, batch_norm="separate", window_length=0.5)
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            with downsampler.step(torch.rand(2, 1, 32, 32, dtype=dtype)) as images:
                model(images)
        own = downsampler.state_dict()["statistics"]
        assert own[".running_mean"].dtype == torch.float64
        assert own[".num_batches_tracked"].item() == 2


class TestState:
    def trained(self, steps: int) -> tuple[nn.Module, Downsampler]:
        model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3, padding=1), norm=nn.BatchNorm2d(2)))
        downsampler = adapter(model, total_steps=6, frequency=0.5, kernel="pooled", batch_norm="separate")
        generator = torch.Generator().manual_seed(1)
        batches = [torch.rand(4, 1, 32, 32, generator=generator) for _ in range(6)]
        self.advance(model, downsampler, batches[:steps])
        return model, downsampler

    @staticmethod
    def advance(model: nn.Module, downsampler: Downsampler, batches: list[torch.Tensor]) -> None:
        for batch in batches:
            with downsampler.step(batch) as images, torch.no_grad():
                model(images)

    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_resuming_gives_what_an_undisturbed_run_gives(self, steps: int) -> None:
        torch.manual_seed(5)
        model, downsampler = self.trained(steps)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "downsampler": downsampler.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        resumed, again = self.trained(2)  # other weights, other statistics: loading must replace all of it
        resumed.load_state_dict(saved["model"])
        again.load_state_dict(saved["downsampler"])
        assert again.steps_done == steps
        rest = [torch.rand(4, 1, 32, 32) for _ in range(6 - steps)]
        for network, own in ((model, downsampler), (resumed, again)):
            self.advance(network, own, rest)
        assert downsampler.state_dict().keys() == again.state_dict().keys()
        for name, value in downsampler.state_dict()["statistics"].items():
            assert torch.equal(again.state_dict()["statistics"][name], value), name
        for ours, theirs in zip(model.buffers(), resumed.buffers(), strict=True):
            assert torch.equal(ours, theirs)

    def test_a_taken_state_does_not_change_with_the_training(self) -> None:
        model, downsampler = self.trained(2)
        state = downsampler.state_dict()
        before = copy.deepcopy(state)
        self.advance(model, downsampler, [torch.rand(4, 1, 32, 32)] * 2)
        assert all(torch.equal(state["statistics"][name], value) for name, value in before["statistics"].items())
        other = self.trained(0)[1]
        other.load_state_dict(state)
        self.advance(other.model, other, [torch.rand(4, 1, 32, 32)] * 2)
        assert all(torch.equal(state["statistics"][name], value) for name, value in before["statistics"].items())

    @pytest.mark.parametrize(
        ("fields", "total_steps", "full_px", "message"),
        [
            ({"frequency": 0.25}, 4, 32, "schedule field 'frequency' is 0.25 here and 0.5 in the checkpoint"),
            ({"seed": 1}, 4, 32, "schedule field 'seed' is 1 here and 0 in the checkpoint"),
            ({}, 5, 32, "total_steps is 5 here and 4 in the checkpoint"),
            ({}, 4, 64, "full_px is 64 here and 32 in the checkpoint"),
        ],
    )
    def test_another_training_is_refused(self, fields: dict[str, object], total_steps: int, full_px: int, message: str) -> None:
        model = nn.BatchNorm2d(1)
        state = adapter(model, frequency=0.5).state_dict()
        other = adapter(model, full_px=full_px, total_steps=total_steps, **({"frequency": 0.5} | fields))
        with pytest.raises(InputError, match=f"^{message}, they must be equal to continue$"):
            other.load_state_dict(state)

    def test_another_network_is_refused(self) -> None:
        state = self.trained(2)[1].state_dict()
        model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 3, padding=1), norm=nn.BatchNorm2d(3)))
        other = adapter(model, total_steps=6, frequency=0.5, kernel="pooled", batch_norm="separate")
        with pytest.raises(InputError, match="belong to a network with other layers"):
            other.load_state_dict(state)


class FlatNet(nn.Sequential):
    """Takes 32 px only: its linear layer counts the pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 16 * 16, 5))


class DeepNet(nn.Sequential):
    """Halves four times without padding and then needs one pixel: (n - 2) // 2 three times and a 2x2 pooling take 30 px and more."""

    def __init__(self) -> None:
        blocks = [layer for i in range(3) for layer in (nn.Conv2d(3 if i == 0 else 2, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2))]
        super().__init__(*blocks, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(2, 5))


class TestCheckSides:
    def test_a_network_for_one_side_only(self) -> None:
        message = (
            r"^network FlatNet can't take a reduced side of 16 px with full kernels "
            r"\(.*shapes cannot be multiplied \(2x128 and 512x5\)\), the smallest side that works is 32 px, the full one$"
        )
        with pytest.raises(InputError, match=message):
            check_sides(FlatNet(), [FULL, HALF], 32)

    @pytest.mark.parametrize(("multiple", "smallest"), [(4, 32), (1, 30), (7, 35)])
    @pytest.mark.parametrize("kernel", ["full", "pooled"])
    def test_the_smallest_side_that_works(self, multiple: int, smallest: int, kernel: str) -> None:
        # 30 -> 28 -> 14 -> 12 -> 6 -> 4 -> 2 -> 1; 29 -> 27 -> 13 -> 11 -> 5 -> 3 -> 1 -> too small. Pooled kernels keep the sizes.
        with pytest.raises(
            InputError, match=f"reduced side of 16 px with {kernel} kernels .*the smallest side that works is {smallest} px$"
        ):
            check_sides(DeepNet(), [Step(64, "full"), Step(16, kernel)], 64, side_multiple=multiple)

    def test_the_advice_holds_for_all_larger_sides(self) -> None:
        class Picky(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if images.shape[-1] in (8, 20):
                    raise ValueError("not this side\nsecond line")
                return images

        with pytest.raises(InputError, match=r"^network Picky .* 8 px .*\(not this side\), the smallest side that works is 24 px$"):
            check_sides(Picky(), [Step(8, "full")], 32)

    def test_a_network_that_cannot_take_the_full_side(self) -> None:
        with pytest.raises(InputError, match=r"^network FlatNet does not take inputs of 64 px with 3 channels "):
            check_sides(FlatNet(), [Step(32, "full")], 64)
        with pytest.raises(InputError, match=r"^network FlatNet does not take inputs of 32 px with 1 channels "):
            check_sides(FlatNet(), [], 32, channels=1)

    def test_torchvision_networks_that_assert_their_side(self) -> None:
        model = torchvision.models.VisionTransformer(32, 16, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4, num_classes=2)
        with pytest.raises(InputError, match=r"^network VisionTransformer can't take a reduced side of 16 px"):
            check_sides(model, [HALF], 32)

    @pytest.mark.parametrize("steps", [[Step(32, "full"), Step(32, "pooled"), Step(64, "full")], [Step(16, "full")]])
    def test_leaves_the_network_as_it_was(self, steps: list[Step]) -> None:
        class Counting(DeepNet):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return super().forward(images)

        model = Counting().train()
        model[1].eval()
        flags = [module.training for module in model.modules()]
        state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        try:
            check_sides(model, steps, 64)
        except InputError:
            assert steps == [Step(16, "full")]
        assert [module.training for module in model.modules()] == flags
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert torch.equal(random_state, torch.get_rng_state())
        assert not any("_conv_forward" in vars(module) for module in model.modules())

    def test_pooled_steps_are_checked_with_pooled_kernels(self) -> None:
        seen = []

        class Network(nn.Sequential):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append((images.shape[-1], "_conv_forward" in vars(self[0])))
                return super().forward(images)

        check_sides(Network(nn.Conv2d(3, 2, 3)), [FULL, HALF, POOLED], 32)
        assert seen == [(32, False), (16, False), (16, True)]

    def test_runs_once_per_distinct_step_without_gradients(self) -> None:
        seen = []

        class Recording(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                seen.append((tuple(images.shape), torch.is_grad_enabled(), self.training))
                return images

        check_sides(Recording(), [FULL, HALF, FULL, HALF, HALF], 32, channels=1)
        assert seen == [((2, 1, 32, 32), False, False), ((2, 1, 16, 16), False, False)]
