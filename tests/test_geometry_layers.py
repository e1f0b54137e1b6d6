"""Which layers a step pools: by hand on small networks, and the same whatever the weights, the seed and the mode."""

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.errors import InputError
from trainers.geometry import Geometry, pooled_convolutions
from trainers.models import build_model
from trainers.pooled_layers import natural_noise, relative_changes
from trainers.schedule import Step

LARGEST, SAVED = Step(16, "pooled_largest_maps"), Step(16, "pooled_most_saved")


def names(model: nn.Module, step: Step, full_px: int = 32) -> list[str]:
    return [convolution.name for convolution in pooled_convolutions(model, step, full_px)]


def conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """5x5: its pooled kernel of 3x3 needs no copy and no partner."""
    return nn.Conv2d(channels_in, channels_out, 5, stride, padding=2)


class TestLargestMaps:
    def test_one_stage_that_saves_half_is_enough(self) -> None:
        # Saved multiply-adds over 48: 64 * 256 px = 16,384 in the first layer, 64 * 64 px = 4,096 in each of the others.
        assert names(nn.Sequential(conv(8, 8), conv(8, 8, 2), conv(8, 8)), LARGEST) == ["0"]

    def test_a_stage_is_taken_whole_or_not(self) -> None:
        # 16 * 256 = 4,096, then 4 * 8 * 64 = 2,048 and 64 * 64 = 4,096: the first stage alone saves less than half.
        model = nn.Sequential(conv(4, 4), conv(4, 8, 2), conv(8, 8), conv(8, 1, 2))
        assert names(model, LARGEST) == ["0", "1", "2"]

    def test_layers_that_share_their_paddings_go_together(self) -> None:
        stage = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)]
        last = nn.Sequential(nn.Conv2d(8, 64, 3, 2, padding=1), nn.Conv2d(64, 64, 3, padding=1))
        assert names(nn.Sequential(*stage, last), LARGEST) == ["0", "1", "2.0", "2.1"]
        assert names(nn.Sequential(*stage, nn.AvgPool2d(2), nn.Conv2d(8, 1, 3)), LARGEST) == ["0", "1"]


class Branches(nn.Module):
    """Two like layers, one on the images and one on the images with every second pixel's sign turned."""

    def __init__(self) -> None:
        super().__init__()
        self.rough, self.smooth = conv(3, 8), conv(3, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
        signs = 1 - 2 * ((rows[:, None] + columns) % 2)
        return self.rough(images * signs) + self.smooth(images)


class TestMostSaved:
    def test_averaged_taps_change_least_where_images_are_smooth(self) -> None:
        assert names(Branches(), SAVED) == ["smooth"]

    def test_of_like_layers_those_of_more_pixels(self) -> None:
        # 4 * 9 * 256 px against 9 * 64 px and 64 px of some 16 channels: the first saves far more than half.
        model = nn.Sequential(conv(3, 16), nn.AvgPool2d(4), conv(16, 1), conv(1, 1))
        assert names(model, SAVED) == ["0"]

    def test_layers_that_cost_more_than_they_save_are_left(self) -> None:
        # 5 multiply-adds fewer a pixel of the depthwise layer are less than its padded copy, though more than the last layer's in all.
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        assert names(nn.Sequential(depthwise, nn.AvgPool2d(4), conv(8, 1)), SAVED) == ["2"]

    def test_relative_changes_are_those_of_fresh_weights(self) -> None:
        found = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = Branches()
            convolutions = {convolution.name: convolution for convolution in pooled_convolutions(model, Step(16, "pooled"), 32)}
            found.append(relative_changes(model, SAVED, convolutions))
        assert found[0] == found[1]
        assert 0 < found[0]["smooth"] < found[0]["rough"]

    @pytest.mark.parametrize("step", [LARGEST, SAVED])
    def test_depends_on_nothing_but_architecture_and_sides(self, step: Step) -> None:
        chosen = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = build_model("cifar_resnet8", 5, 32)
            for parameter in model.parameters():
                nn.init.normal_(parameter, mean=seed)
            model.train(seed == 1)
            state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
            chosen.append(names(model, step))
            assert torch.equal(state, torch.get_rng_state())
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert chosen[0] == chosen[1]
        assert 0 < len(chosen[0]) < 7

    def test_chosen_layers_keep_the_sizes_of_the_network(self) -> None:
        model = build_model("cifar_resnet20", 5, 32)
        geometry = Geometry(model, 32)
        every = {convolution.name: convolution.even for convolution in geometry.convolutions(Step(16, "pooled"))}
        for step in (LARGEST, SAVED):
            chosen = geometry.convolutions(step)
            assert all(convolution.even == every[convolution.name] for convolution in chosen)
            # 'stages.<stage>.<block>.first.0' and '....second.0' are a pair.
            blocks = Counter(
                convolution.name.rpartition(".")[0].rpartition(".")[0] for convolution in chosen if convolution.name != "stem.0"
            )
            assert set(blocks.values()) == {2}

    def test_a_network_that_cannot_be_traced_is_refused(self) -> None:
        class Looking(Branches):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return super().forward(F.relu(images) if images.sum().item() > 0 else images)

        with pytest.raises(
            InputError, match=r"^schedule field 'pooled_layers' is 'most_saved', but network Looking can't be traced .*'all'$"
        ):
            names(Looking(), SAVED)
        assert names(Looking(), Step(16, "pooled")) == ["rough", "smooth"]


def test_noise_is_smooth_like_photographs() -> None:
    images = natural_noise(4, 2, 32)
    assert images.shape == (4, 2, 32, 32)
    torch.testing.assert_close(images.std((2, 3)), torch.ones(4, 2))
    # Along a row, neighbours of white noise have correlation 0; amplitudes of 1/f make it high.
    assert float((images[..., :-1] * images[..., 1:]).mean()) > 0.5
