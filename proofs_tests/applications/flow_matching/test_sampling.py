"""What `induced sample` draws: noise that no batch changes, its temperature and truncation, one class, and how it is written."""

import io
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from applications.common import progress
from applications.common.data import to_uint8
from applications.common.figures import grid, save_picture
from applications.common.progress import counted
from applications.common.written import place_of, write_images
from applications.flow_matching import commands, sampling
from applications.flow_matching.config import ModelConfig
from applications.flow_matching.model import FlowMatching, build
from applications.flow_matching.sampling import noise, noises
from induced.errors import DataError, DomainError
from induced.serialization import save
from proofs_tests.applications.flow_matching.models import SMALL, ready
from proofs_tests.applications.terminal import command, refusal

VECTORS = ModelConfig().of_vectors(3, ())


# ---------------------------------------------------------------------------------------------------------------- the noise
@pytest.mark.parametrize("config", [SMALL, VECTORS], ids=["16 numbers", "3 numbers"])
@pytest.mark.parametrize("n", [0, 1, 5, 31, 32, 47, 48, 49, 101])
def test_noise_is_one_draw_bit_for_bit_whatever_goes_through_the_chart_together(
    config: ModelConfig, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(config).double()
    one = torch.randn(n, *model.noise_chart.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for size in (1, 2, 3, 1000):
        monkeypatch.setattr(sampling, "at_a_time", lambda dim, size=size: size)
        assert torch.equal(noise(model, n, 7), one)
        assert max((len(part) for part in noises(model, n, 7)), default=0) <= size


def test_draws_of_a_few_rows_are_not_those_of_one_draw() -> None:
    generator = torch.Generator().manual_seed(7)
    few = torch.cat([torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(16)])
    assert not torch.equal(few, noise(build(VECTORS).double(), 32, 7))


def test_temperature_scales_the_noise_and_truncation_is_the_truncated_normal_distribution() -> None:
    model = build(SMALL).double()
    z = noise(model, 500)
    torch.testing.assert_close(noise(model, 500, temperature=0.8), 0.8 * z, rtol=1e-15, atol=0)
    assert torch.equal(noise(model, 500, truncation=math.inf), z)
    for most in (1e-3, 0.5, 2.0, 6.0, 40.0):
        found = noise(model, 500, truncation=most)
        # the lower tail, where no probability rounds to 1
        expected = scipy.stats.truncnorm.ppf(scipy.stats.norm.cdf(-z.abs().numpy()), -most, most)
        torch.testing.assert_close(found, torch.from_numpy(expected).abs().copysign(z), rtol=1e-9, atol=1e-13)
        assert found.abs().max() <= most
        torch.testing.assert_close(noise(model, 500, temperature=0.8, truncation=most), 0.8 * found, rtol=1e-15, atol=0)
    assert noise(model, 500, truncation=2.0).std() < 0.9 < 0.98 < z.std()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive_and_finite(temperature: float) -> None:
    with pytest.raises(DomainError, match=f"a temperature is a finite number above 0, got {temperature}"):
        noises(build(SMALL), 1, temperature=temperature)


@pytest.mark.parametrize("truncation", [0.0, -2.0, math.nan])
def test_a_truncation_is_positive(truncation: float) -> None:
    with pytest.raises(DomainError, match=f"at a number of standard deviations above 0, got {truncation}"):
        noises(build(SMALL), 1, truncation=truncation)


# --------------------------------------------------------------------------------------------------------------- one class
@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[FlowMatching, Path]:
    """A model of dark cats and bright dogs, and where it is saved with the names of its classes."""
    model = ready(replace(SMALL, components=6), torch.float32)
    levels = torch.tensor([0, 180]).repeat_interleave(40)
    images = levels[:, None, None, None] + torch.randint(60, (80, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    model.encode_leading(images.to(torch.uint8), levels.bool().long())
    folder = tmp_path_factory.mktemp("mixed")
    return model, save(model, folder / "named", notes={"data": {"classes": ["cats", "dogs", "no subfolder"]}})


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def drawn(model: FlowMatching, n: int, of_class: int | None = None) -> np.ndarray:
    with torch.no_grad():
        return to_uint8(model.operator(of_class=of_class)(noise(model, n))).numpy()


def test_a_class_is_drawn_by_its_name_or_by_its_number_where_it_has_none(
    mixed: tuple[FlowMatching, Path], tmp_path: Path
) -> None:
    model, named = mixed
    plain = save(model, tmp_path / "plain")
    for folder, kind in ((named, "dogs"), (plain, "1")):
        command("sample", "--run", folder, "--n", 20, "--class", kind, "--out", tmp_path / "dogs.npz")
        found = arrays(tmp_path / "dogs.npz")
        assert found["images"].dtype == np.uint8 and found["labels"].dtype == np.int64
        assert np.array_equal(found["images"], drawn(model, 20, 1)) and found["labels"].tolist() == 20 * [1]
    for other in (0, None):  # whose noise is the same
        assert not np.array_equal(found["images"], drawn(model, 20, other))
    command("sample", "--run", named, "--n", 20, "--out", tmp_path / "all.npz")
    found = arrays(tmp_path / "all.npz")
    assert found.keys() == {"images"} and np.array_equal(found["images"], drawn(model, 20))
    assert refusal("sample", "--run", named, "--class", "1") == (
        f"induced: the model of {named} has no images of a class '1'; its classes are cats, dogs"
    )
    assert refusal("sample", "--run", plain, "--class", "7").endswith("has no images of a class '7'; its classes are 0, 1")


def test_a_class_needs_a_mixture(tmp_path: Path) -> None:
    for name, config in (("couplings", SMALL), ("vectors", VECTORS)):
        folder = save(build(config), tmp_path / name)
        said = refusal("sample", "--run", folder, "--class", "7", "--out", tmp_path / "x.png")
        assert (
            said.startswith(f"induced: {folder}: --class is for models of images whose density is a mixture") and "\n" not in said
        )


def test_a_training_records_the_names_of_folders_and_an_export_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDUCED_CACHE", str(tmp_path / "cache"))
    for kind, level in (("cats", 20), ("dogs", 200)):
        for k in range(12):
            save_picture(tmp_path / "photographs" / kind / f"{k}.png", torch.full((1, 8, 8), level + k, dtype=torch.uint8))
    small = (
        "--shape 1 8 8 --blocks 1 --widths 4 --dense-blocks 1 --dense-width 4 --rank 2 --components 2 --batch 4 --latent-batch 4"
    )
    train = [
        "train",
        "flow-matching",
        "--data",
        "folder",
        "--data-dir",
        tmp_path / "photographs",
        *small.split(),
        "--log-every",
        1,
    ]
    train += ["--latent-steps", 1, "--device", "cpu", "--out", tmp_path / "run"]
    command(*train, "--steps", 1)
    command(*train, "--steps", 2, "--resume")
    command("export", "--run", tmp_path / "run", "--out", tmp_path / "model")
    for folder in (tmp_path / "run", tmp_path / "model"):
        command("sample", "--run", folder, "--n", 1, "--class", "dogs", "--out", tmp_path / "x.npz")
        assert arrays(tmp_path / "x.npz")["labels"].tolist() == [1]
        assert refusal("sample", "--run", folder, "--class", "cows").endswith("of a class 'cows'; its classes are cats, dogs")


# ------------------------------------------------------------------------------------------------------------ what is written
def test_a_seed_means_the_same_images_in_a_picture_a_folder_and_an_array(
    mixed: tuple[FlowMatching, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; of other batches, which round otherwise, within a level of a pixel."""
    monkeypatch.setattr(sampling, "at_a_time", lambda dim: 6)
    how = ["sample", "--run", mixed[1], "--n", 101, "--temperature", 0.9, "--truncation", 2, "--seed", 3, "--out"]
    for out in ("a.npz", "folder", "a.png"):
        command(*how, tmp_path / out)
    images = arrays(tmp_path / "a.npz")["images"]
    files = sorted((tmp_path / "folder").iterdir())
    assert images.shape == (101, 1, 4, 4) and [path.name for path in files] == [f"{k:06}.png" for k in range(101)]
    assert all(np.array_equal(np.asarray(Image.open(path)), image[0]) for path, image in zip(files, images, strict=True))
    caption = "101 samples of seed 3, each in one step, which stands for 100 of rk4; temperature 0.9; truncation 2"
    save_picture(tmp_path / "b.png", grid(torch.from_numpy(images), columns=8, scale=2, caption=caption))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    monkeypatch.undo()
    command(*how, tmp_path / "a.npz")
    assert np.abs(arrays(tmp_path / "a.npz")["images"].astype(int) - images).max() <= 1


def test_a_picture_has_a_limit_and_an_array_or_a_folder_none(
    mixed: tuple[FlowMatching, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "IMAGES", 10)
    how = ["sample", "--run", mixed[1], "--n", 11, "--out"]
    said = refusal(*how, tmp_path / "x.png")
    assert said == "induced: a picture shows up to 10 images, got --n 11: give --out a folder or a file .npz"
    (tmp_path / "v1.5").mkdir()
    for out in ("x.npz", "x", "v1.5"):
        command(*how, tmp_path / out)
    assert len(arrays(tmp_path / "x.npz")["images"]) == len(list((tmp_path / "v1.5").iterdir())) == 11
    assert ", a file for each image into a folder, a name without a suffix" in refusal(*how, tmp_path / "x.txt")


def images_of(n: int, level: int = 0) -> Iterator[Tensor]:
    yield from torch.full((n, 3, 2, 2), level, dtype=torch.uint8).split(2)


def test_files_of_other_images_are_neither_deleted_nor_joined(tmp_path: Path) -> None:
    for level in (1, 2):  # what the same names have is written over
        write_images(place_of(tmp_path / "x", 5), images_of(5, level), (5, 3, 2, 2))
        write_images(place_of(tmp_path / "x.npz", 5), images_of(5, level), (5, 3, 2, 2))
    (tmp_path / "x" / ".DS_Store").touch()
    assert (
        np.asarray(Image.open(place_of(tmp_path / "x", 5) / "000004.png")).max()
        == arrays(tmp_path / "x.npz")["images"].min()
        == 2
    )
    with pytest.raises(DataError, match=r"x: holds 000003\.png and 1 more, which would lie beside the 3 images; choose another"):
        place_of(tmp_path / "x", 3)
    (tmp_path / "x" / "thesis").mkdir()
    with pytest.raises(DataError, match=r"x: holds thesis, which would lie beside the 9 images"):
        place_of(tmp_path / "x", 9)
    assert len(list((tmp_path / "x").iterdir())) == 7
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="its folder cannot be made"):
        place_of(tmp_path / "file", 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DomainError])
def test_what_is_interrupted_leaves_no_half_array(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield from images_of(4)
        raise error

    write_images(tmp_path / "x.npz", images_of(2), (2, 3, 2, 2))
    before = (tmp_path / "x.npz").read_bytes()
    for name in ("x.npz", "new.npz"):
        with pytest.raises(error):
            write_images(tmp_path / name, interrupted(), (6, 3, 2, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"] and (tmp_path / "x.npz").read_bytes() == before


def test_images_are_written_as_they_are_drawn(tmp_path: Path) -> None:
    """No list of them is made: each batch is on its way to the disk before the next one is drawn."""
    there = list[int]()

    def watched() -> Iterator[Tensor]:
        for part in images_of(6):
            there.append(len(list((tmp_path / "x").iterdir())))
            yield part

    write_images(place_of(tmp_path / "x", 6), watched(), (6, 3, 2, 2))
    assert there == [0, 2, 4]


def test_progress_is_a_line_for_each_tenth_in_a_log_and_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = [torch.zeros(3)] * 20
    assert len(list(counted(batches, 60, "images"))) == 20
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"{k} of 60 images" for k in range(6, 60, 6)]
    assert all(line.endswith(" s left") for line in lines)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "tqdm", lambda **how: tqdm(**{**how, "delay": 0, "mininterval": 0}))
    assert len(list(counted(batches, 60, "images"))) == 20 and capsys.readouterr().out == ""
    assert [f" {k}/60 [" in terminal.getvalue() for k in (3, 30, 60)] == 3 * [True]


def test_noise_of_a_table_has_a_temperature_too(tmp_path: Path) -> None:
    model = build(VECTORS)
    save(model, tmp_path / "model")
    command("sample", "--run", tmp_path / "model", "--temperature=0.5", "--truncation=0.3", "--out", tmp_path / "x.csv")
    found = torch.from_numpy(np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1)).float()
    with torch.no_grad():
        torch.testing.assert_close(found, model.operator()(noise(model, 64, temperature=0.5, truncation=0.3)))
