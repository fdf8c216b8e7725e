"""Inception v3 has the published layout, pools as the original FID does, and judges images where its weights are supplied."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from applications.common.data import ImageSet, load, to_unit
from applications.common.inception import InceptionV3, inception
from applications.common.quality import quality
from induced.errors import DataError, DtypeError

SOME = {  # of pt_inception-2015-12-05-6726825d.pth
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.bn.running_var": (192,),
    "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6a.branch3x3dbl_3.bn.bias": (96,),
    "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6e.branch7x7dbl_4.conv.weight": (192, 192, 7, 1),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch1x1.conv.weight": (320, 2048, 1, 1),
    "fc.weight": (1008, 2048),
}


@pytest.fixture(scope="module")
def net() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def weights(net: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    counted = "num_batches_tracked"  # files of torch have it, older ones do not
    save_file({name: value.half() for name, value in net.state_dict().items() if not name.endswith(counted)}, path)
    return path


def test_it_has_the_layout_of_the_published_network(net: InceptionV3) -> None:
    assert {name: tuple(net.state_dict()[name].shape) for name in SOME} == SOME
    convolutions = [name for name in net.state_dict() if name.endswith("conv.weight")]
    assert len(convolutions) == 94
    # torchvision states 27,161,264 parameters: 3,326,696 are those of its auxiliary scores, 2,049,000 of its 1,000 classes
    trunk = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("fc."))
    assert trunk == 27_161_264 - 3_326_696 - 2_049_000


def test_images_of_any_size_have_2048_features_each_on_its_own(net: InceptionV3) -> None:
    colour = 2 * torch.rand(2, 3, 40, 50) - 1
    features = net(colour)
    assert features.shape == (2, 2048) and bool(features.isfinite().all())
    torch.testing.assert_close(net(colour[1:]), features[1:])
    grey = colour[:1, :1]
    torch.testing.assert_close(net(grey), net(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(DtypeError, match=r"the net is of torch\.float32 and got images of torch\.float64"):
        net(colour.double())


def test_averages_leave_padding_out_and_the_last_block_takes_the_maximum(net: InceptionV3) -> None:
    ones, spot = torch.ones(1, 1, 4, 4), F.pad(torch.ones(1, 1, 1, 1), (2, 2, 2, 2))
    blocks: list[tuple[str, Any]] = list(net.named_children())
    for name, block in blocks:
        if name in ("Mixed_6a", "Mixed_7a"):
            assert block.pool(spot).tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]  # every other place
        elif name.startswith("Mixed"):
            assert torch.equal(block.pool(ones), ones)  # with padding counted, 4/9 in the corners
            expected = 1.0 if name == "Mixed_7c" else 1 / 9
            torch.testing.assert_close(block.pool(spot)[..., 1:4, 1:4], torch.full((1, 1, 3, 3), expected))


def test_the_middles_of_pixels_are_seen_as_the_original_sees_pixels(net: InceptionV3) -> None:
    seen = []
    handle = net.Conv2d_1a_3x3.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(to_unit(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8)))
    handle.remove()
    torch.testing.assert_close(seen[0].flatten(1).aminmax(dim=1), torch.return_types.aminmax((torch.tensor([-1.0, 1.0]),) * 2))


def test_it_judges_images_by_a_file_of_weights(weights: Path) -> None:
    digits = load("mnist5k", "test").spread(5)
    own = quality(to_unit(digits.images), digits, fid_weights=weights)
    assert own.features == "Inception v3 (FID)" and own.samples == 5
    assert abs(own.frechet) < 1e-3 and own.precision == own.recall == 1.0 and own.confident != own.confident
    black = ImageSet("black", torch.zeros_like(digits.images), digits.labels)
    assert quality(to_unit(black.images), digits, fid_weights=weights).frechet > 10 * abs(own.frechet)


def test_a_pickle_of_torch_is_read_and_what_is_none_is_refused(weights: Path, net: InceptionV3, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    assert torch.equal(inception(tmp_path / "inception.pth").fc.weight, net.fc.weight)
    with pytest.raises(DataError, match=r"missing\.pth: cannot be read as weights of InceptionV3"):
        inception(tmp_path / "missing.pth")
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"damaged\.pth: cannot be read"):
        inception(tmp_path / "damaged.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match=r"list\.pth: cannot be read"):
        inception(tmp_path / "list.pth")
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, tmp_path / "part.pth")
    with pytest.raises(DataError, match=r"part\.pth: does not hold the weights of InceptionV3"):
        inception(tmp_path / "part.pth")
