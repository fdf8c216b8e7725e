"""SqueezeNet's features: classes it knows, distances that grow with damage; sets in batches; what loading refuses."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from applications.common.data import npz, to_unit
from applications.common.features import MIN_SIDE, SQUEEZENET, SqueezeNet, enlarged, extract, find_weights, squeezenet
from applications.common.metrics import frechet_distance
from induced.errors import DataError, DtypeError, ShapeError

DATA = os.environ.get("INDUCED_DATA")
weights_needed = pytest.mark.skipif(not DATA, reason="INDUCED_DATA is not set: SqueezeNet's weights are elsewhere")


@pytest.fixture(scope="module")
def net() -> SqueezeNet:
    return squeezenet()


@weights_needed
def test_squeezenet_knows_what_is_on_a_photograph(net: SqueezeNet) -> None:
    samples = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the photograph")
    photo = torch.from_numpy(samples.load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None] / 127.5 - 1
    middle = F.interpolate(photo, (256, 384), mode="bilinear", antialias=True)[:, :, 16:240, 80:304]
    buildings = {442: "bell cote", 663: "monastery", 698: "palace", 832: "stupa"}
    scores = net.scores(middle)
    assert set(scores.topk(4).indices[0].tolist()) == set(buildings)
    assert scores.softmax(1)[0, list(buildings)].sum() > 0.9


@weights_needed
def test_squeezenet_gives_512_features_whatever_the_batch(net: SqueezeNet) -> None:
    images = torch.rand(7, 3, 32, 32) * 2 - 1
    features = extract(net, images)
    assert features.shape == (7, 512) and features.dtype == torch.float64
    assert torch.allclose(extract(net, images, batch=2), features, rtol=1e-4, atol=1e-4)
    assert (features >= 0).all() and features.std() > 0.1


@weights_needed
def test_squeezenet_enlarges_what_is_small_and_repeats_grey(net: SqueezeNet) -> None:
    grey = torch.rand(2, 1, 64, 64) * 2 - 1
    large = F.interpolate(grey, (MIN_SIDE, MIN_SIDE), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)
    assert torch.allclose(net(grey), net(large), rtol=1e-4, atol=1e-4)


@weights_needed
def test_squeezenet_pools_the_last_column_of_an_even_map(net: SqueezeNet) -> None:
    sides = [net.features[:count](torch.zeros(1, 3, 130, 130)).shape[-1] for count in (1, 3, 6, 9)]
    assert sides == [64, 32, 16, 8]


@weights_needed
def test_squeezenet_refuses_what_are_no_images(net: SqueezeNet) -> None:
    with pytest.raises(DtypeError, match="the net is of torch.float32 and got images of torch.uint8"):
        net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"grey or RGB images .* got \(1, 2, 64, 64\)"):
        net(torch.zeros(1, 2, 64, 64))


def faces(n: int) -> Tensor:
    """RGB faces in [0, 1]."""
    with np.load(Path(DATA or "", "avatars64", "toonhead64.npz")) as arrays:
        return torch.from_numpy(arrays["images"][:n]).permute(0, 3, 1, 2) / 255


@weights_needed
def test_frechet_distance_of_faces_grows_with_noise_and_blur(net: SqueezeNet) -> None:
    images = faces(96)
    real, other = extract(net, images * 2 - 1).split(48)
    halves = frechet_distance(real, other)
    noise = torch.randn(48, *images.shape[1:])
    damaged = [frechet_distance(real, extract(net, (images[48:] + s * noise).clamp(0, 1) * 2 - 1)) for s in (0.05, 0.1, 0.2)]
    blurred = frechet_distance(real, extract(net, F.avg_pool2d(images[48:], 3, 1, 1) * 2 - 1))
    assert 0 < 2 * halves < damaged[0] < damaged[1] < damaged[2]
    assert blurred > 2 * halves


def test_extract_maps_pixels_to_the_middle_of_their_bins_and_keeps_the_last_batch() -> None:
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    seen: list[int] = []

    def means(unit: Tensor) -> Tensor:
        seen.append(len(unit))
        return unit.mean((1, 2, 3))

    found = extract(means, images, batch=3)
    assert seen == [3, 3, 1]
    assert torch.allclose(found, to_unit(images).double().mean((1, 2, 3)), atol=1e-6)


def test_extract_refuses_an_empty_set_and_an_empty_batch() -> None:
    with pytest.raises(ShapeError, match=r"no image to take features of, got the shape \(0, 1, 8, 8\)"):
        extract(torch.flatten, torch.zeros(0, 1, 8, 8))


def test_enlarging_keeps_proportions_and_leaves_large_images_alone() -> None:
    assert enlarged(torch.zeros(1, 3, 10, 20), 16).shape == (1, 3, 16, 32)
    large = torch.rand(1, 3, 16, 20)
    assert enlarged(large, 16) is large


def test_find_weights_looks_in_the_folder_and_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INDUCED_DATA", raising=False)
    with pytest.raises(DataError, match="a/b are needed and no folder was given: pass --data-dir or set INDUCED_DATA"):
        find_weights(("a", "b"))
    with pytest.raises(DataError, match="found no weights at .*nothing is downloaded"):
        find_weights(("a", "b"), tmp_path)
    (tmp_path / "b").touch()
    assert find_weights(("a", "b"), tmp_path) == tmp_path / "b"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    monkeypatch.setenv("INDUCED_DATA", str(tmp_path))
    assert find_weights(("a", "b")) == tmp_path / "a" / "b"


def test_squeezenet_refuses_damaged_foreign_or_huge_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / SQUEEZENET[1]
    path.write_bytes(b"no npz")
    with pytest.raises(DataError, match="is no readable npz file"):
        squeezenet(tmp_path)
    weights: dict[str, Any] = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}
    np.savez(path, **weights)
    with pytest.raises(DataError, match="does not hold the weights of SqueezeNet"):
        squeezenet(tmp_path)
    monkeypatch.setattr(npz, "MEMORY", 1000)
    with pytest.raises(DataError, match=r"unpacks to 7.04e-06 GB, more than the 1e-06 GB of memory: save fewer rows"):
        squeezenet(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="is no readable npz file"):
        squeezenet(tmp_path)
