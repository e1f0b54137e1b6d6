"""Filters are pooled once a step, with the gradients of filters that are pooled at each use; also in compiled networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import trainers.filters
from trainers.downsampling import Downsampler
from trainers.filters import pool_kernel, pool_once
from trainers.geometry import pooled_convolutions, pooled_kernels
from trainers.models import build_model
from trainers.schedule import Schedule, Step

POOLED = Step(16, "pooled")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poolings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the filters that were pooled, in order."""
    pooled = []
    own = trainers.filters._map_taps

    def counting(filters: torch.Tensor, *matrices_and_size: object) -> torch.Tensor:
        pooled.append(tuple(filters.shape))
        return own(filters, *matrices_and_size)

    monkeypatch.setattr(trainers.filters, "_map_taps", counting)
    return pooled


class Network(nn.Module):
    """One layer used twice, one used once, one of other taps, one that this forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 5, padding=2)
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.once = nn.Conv2d(3, 2, 3, padding=1)
        self.unused = nn.Conv2d(2, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.once(self.twice(F.relu(self.twice(F.relu(self.stem(images))))))


def adapter(model: nn.Module) -> Downsampler:
    return Downsampler(model, Schedule(frequency=1, kernel="pooled"), 4, 32)


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_close(ours: dict[str, torch.Tensor | None], theirs: dict[str, torch.Tensor | None]) -> None:
    assert ours.keys() == theirs.keys()
    for name, grad in ours.items():
        assert (grad is None) == (theirs[name] is None), name
        if grad is not None:
            torch.testing.assert_close(grad, theirs[name], msg=lambda text, name=name: f"{name}: {text}")


class TestOnceAStep:
    def test_several_micro_batches_share_the_filters_and_add_up(self, poolings: list[tuple[int, ...]]) -> None:
        model = Network()
        apart = copy.deepcopy(model)
        batches = [torch.randn(2, 2, 16, 16) for _ in range(3)]
        with adapter(model).run_as(POOLED):
            assert poolings == [(3, 2, 5, 5), (3, 3, 3, 3), (2, 3, 3, 3), (2, 2, 3, 3)]
            for batch in batches:
                model(batch).square().mean().backward()
            # Only their gradients were spread since: three filters are used, three times.
            assert len(poolings) == 4 + 3 * 3
        for batch in batches:
            with adapter(apart).run_as(POOLED):
                apart(batch).square().mean().backward()
        assert_close(gradients(model), gradients(apart))
        assert model.unused.weight.grad is None

    def test_the_gradient_is_that_of_filters_pooled_at_each_use(self) -> None:
        model = Network().double()
        images = torch.randn(2, 2, 16, 16, dtype=torch.float64)
        reference = copy.deepcopy(model)
        with adapter(model).run_as(POOLED):
            output = model(images)
            output.square().mean().backward()
        stem = F.conv2d(images, pool_kernel(reference.stem.weight, (3, 3)), reference.stem.bias, padding=1)
        features = F.relu(stem)
        # A layer that runs twice is padded: 'twice' takes the odd pixel off the right, 'once' off the left.
        for activation in (F.relu, nn.Identity()):
            padded = F.pad(features, (1, 0, 1, 0))
            features = activation(F.conv2d(padded, pool_kernel(reference.twice.weight, (2, 2)), reference.twice.bias))
        expected = F.conv2d(F.pad(features, (0, 1, 0, 1)), pool_kernel(reference.once.weight, (2, 2)), reference.once.bias)
        expected.square().mean().backward()
        torch.testing.assert_close(output, expected)
        assert_close(gradients(model), gradients(reference))

    def test_nothing_is_kept_between_steps(self) -> None:
        model = Network()
        images = torch.randn(2, 2, 16, 16)
        outputs = []
        for _ in range(2):
            with adapter(model).run_as(POOLED), torch.no_grad():
                outputs.append(model(images))
            nn.init.zeros_(model.once.weight.data)  # past autograd's version counter
            nn.init.zeros_(model.once.bias)
        assert outputs[0].abs().max() > 0
        assert outputs[1].abs().max() == 0
        convolutions = pooled_convolutions(model, POOLED, 32)
        with pooled_kernels(convolutions):
            assert all(convolution.kept is not None for convolution in convolutions)
        assert all(convolution.kept is None for convolution in convolutions)

    def test_a_weight_that_changes_inside_is_pooled_anew(self) -> None:
        model = Network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        images = torch.randn(2, 2, 16, 16)
        with adapter(model).run_as(POOLED):
            model(images).square().mean().backward()
            optimizer.step()
            inside = model(images)
        with adapter(model).run_as(POOLED):
            torch.testing.assert_close(inside, model(images))

    def test_gradients_flow_also_if_the_step_began_without_them(self) -> None:
        model = Network()
        step = adapter(model).run_as(POOLED)
        with torch.no_grad():
            step.__enter__()
        model(torch.randn(2, 2, 16, 16)).square().mean().backward()
        step.__exit__(None, None, None)
        assert model.once.weight.grad.abs().max() > 0

    def test_frozen_layers_get_no_gradient(self) -> None:
        model = Network()
        model.twice.requires_grad_(False)
        with adapter(model).run_as(POOLED):
            model(torch.randn(2, 2, 16, 16)).square().mean().backward()
        assert model.twice.weight.grad is None
        assert model.stem.weight.grad.abs().max() > 0
        weights = [model.stem.weight, model.twice.weight]
        assert [kept.pooled.requires_grad for kept in pool_once(weights, [(3, 3), (2, 2)])] == [True, False]

    def test_parametrized_weights_survive_several_backward_passes(self) -> None:
        model = Network()
        weight_norm(model.once)
        with adapter(model).run_as(POOLED):
            for _ in range(2):
                model(torch.randn(2, 2, 16, 16)).square().mean().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in model.once.parameters())

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpointed_blocks(self, use_reentrant: bool) -> None:
        model = Network()
        plain = copy.deepcopy(model)
        images = torch.randn(2, 2, 16, 16, requires_grad=True)
        with adapter(model).run_as(POOLED):
            checkpoint(model, images, use_reentrant=use_reentrant).square().mean().backward()
        with adapter(plain).run_as(POOLED):
            plain(images).square().mean().backward()
        assert_close(gradients(model), gradients(plain))

    def test_channels_last_filters_stay_so(self) -> None:
        weights = [torch.randn(4, 3, 5, 5), torch.randn(3, 1, 3, 3), torch.randn(2, 3, 7, 1)]
        sizes = [(3, 3), (2, 2), (4, 1)]
        last = [weight.clone(memory_format=torch.channels_last).requires_grad_() for weight in weights]
        first = [weight.requires_grad_() for weight in weights]
        for kept, own in zip(pool_once(last, sizes), pool_once(first, sizes), strict=True):
            assert kept.pooled.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(kept.pooled, own.pooled)
            grad = torch.randn_like(own.pooled)
            kept.pooled.backward(grad, retain_graph=True)
            own.pooled.backward(grad, retain_graph=True)
        for ours, theirs in zip(last, first, strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)

    def test_finite_differences(self) -> None:
        weights = [torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True), torch.randn(1, 2, 5, 1, dtype=torch.float64)]
        weights[1].requires_grad_()

        def pooled(*weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(kept.pooled for kept in pool_once(weights, [(2, 2), (3, 1)]))

        assert torch.autograd.gradcheck(pooled, weights)
        assert torch.autograd.gradgradcheck(lambda *w: tuple(p**2 for p in pooled(*w)), weights)


# Dynamo looks at the gradient of every input; it hides the warning that this gives, but not from filters that make it an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
class TestCompiled:
    def test_one_graph_for_each_kind_of_step_and_none_later(self) -> None:
        model = build_model("cifar_resnet8", 5, 32)
        downsampler = Downsampler(model, Schedule(frequency=0.5, kernel="pooled"), 8, 32)
        counter = CompileCounter()
        compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(8):
            with downsampler.step(torch.randn(2, 3, 32, 32)) as images:
                compiled(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert counter.frame_count == 2

    def test_a_compiled_step_uses_the_kept_filters_of_its_own_step(self, poolings: list[tuple[int, ...]]) -> None:
        model = Network()
        plain = copy.deepcopy(model)
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (model, plain)]
        for _ in range(3):
            images = torch.randn(2, 2, 16, 16)
            with adapter(model).run_as(POOLED):
                before = len(poolings)
                output = compiled(images)
                assert len(poolings) == before
                output.square().mean().backward()
            with adapter(plain).run_as(POOLED):
                plain(images).square().mean().backward()
            assert_close(gradients(model), gradients(plain))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
