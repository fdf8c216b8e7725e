"""Sources of data: rows by number, random only where drawn, a fingerprint of every bit, and the batches of a training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from applications.common.data import ImageSet, Source, Tensors, to_unit
from applications.common.data.source import Batch, fits
from applications.common.randomness import batch_indices, drawn, step_generator
from applications.common.runs import Run
from applications.common.training import fit
from induced.errors import CheckpointError, ShapeError
from proofs_tests.applications import toy


def images(n: int = 6, side: int = 28) -> ImageSet:
    pixels = torch.randint(0, 256, (n, 1, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ImageSet("random", pixels, torch.arange(n))


def pairs() -> Tensors:
    return Tensors("pairs", {"x": torch.arange(12.0).view(6, 2), "y": torch.arange(6) ** 2})


class Squares(Source):
    """Rows that are stored nowhere."""

    name = "squares"

    def __len__(self) -> int:
        return 5

    def batch(self, indices: Tensor) -> Batch:
        return {"images": (indices**2).float()[:, None, None, None].expand(-1, 1, 8, 8)}


SOURCES = {"images": images(), "pairs": pairs(), "made on demand": Squares()}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_row_does_not_depend_on_the_others(source: Source) -> None:
    j, k = torch.tensor([4, 0, 3, 3]), torch.tensor([2, 1, 1])
    whole, part = source.batch(j), source.batch(j[k])
    assert whole and all(torch.equal(part[name], whole[name][k]) for name in whole)
    (draws,) = drawn([source.draw(4, torch.Generator().manual_seed(0))], 4, seed=0, step=0)
    whole, part = source.randomised(j, draws), source.randomised(j[k], {name: value[k] for name, value in draws.items()})
    assert all(torch.equal(part[name], whole[name][k]) for name in whole)


def test_images_are_in_the_middle_of_their_bins_or_dequantised() -> None:
    data, chosen = images(), torch.tensor([5, 2])
    assert torch.equal(data.batch(chosen)["images"], to_unit(data.images[chosen]))
    (draws,) = drawn([data.draw(2, torch.Generator())], 2, seed=3, step=0)
    assert 0 <= draws["noise"].min() < 0.1 and 0.9 < draws["noise"].max() < 1
    assert torch.equal(data.randomised(chosen, draws)["images"], to_unit(data.images[chosen], draws["noise"]))
    still = replace(data, noise=False)
    assert not still.draw(2, torch.Generator())
    assert torch.equal(still.randomised(chosen, {})["images"], to_unit(data.images[chosen]))


def test_one_other_number_is_another_fingerprint() -> None:
    found = {source.fingerprint() for source in SOURCES.values()}
    data = images()
    assert data.fingerprint() == images().fingerprint() == replace(data, name="another name").fingerprint()
    data.images[3, 0, 5, 5] ^= 1
    x, y = pairs().tensors["x"], pairs().tensors["y"]
    x[-1, -1] += 1e-5
    others = [data, Tensors("pairs", {"x": x, "y": y}), Tensors("pairs", {"x": pairs().tensors["x"], "z": y})]
    others += [Tensors("pairs", {"x": pairs().tensors["x"].view(6, 2, 1), "y": y})]
    found |= {source.fingerprint() for source in others}
    assert len(found) == len(SOURCES) + len(others)


def test_what_was_computed_is_known_by_what_it_was_computed_from() -> None:
    made = [Tensors("codes", {"c": torch.rand(3, 2)}, made_from=text) for text in ("a", "a", "b")]
    assert made[0].fingerprint() == made[1].fingerprint() != made[2].fingerprint()


def test_tensors_of_other_lengths_are_refused() -> None:
    for tensors in ({}, {"x": torch.ones(3), "y": torch.ones(4)}, {"x": torch.ones(())}):
        with pytest.raises(ShapeError, match="one or more tensors with the same number of rows, got the shapes"):
            Tensors("rows", tensors)


def test_on_the_cpu_nothing_moves() -> None:
    data = pairs()
    assert data.on(torch.device("cpu")) is data and not fits(data.tensors, torch.device("cpu"))


def test_a_training_takes_the_batches_of_its_formula(tmp_path: Path) -> None:
    """u is drawn before the objective's own noise, from the generator of the step; rows come in the order of the shuffles."""
    seen = []

    class Look(toy.Denoise):
        def forward(self, batch: Batch, draws: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append((batch["images"].clone(), draws["noise"].clone()))
            return super().forward(batch, draws)

    data = toy.images()
    toy.train(tmp_path, objective=Look(), config=replace(toy.CONFIG, steps=6, sample_every=0))
    for step, (x, noise) in enumerate(seen):
        asked = data.draw(8, torch.Generator()), toy.Denoise().draw(8, step_generator(toy.CONFIG.seed, step))
        u, expected = drawn(asked, 8, toy.CONFIG.seed, step)
        chosen = batch_indices(len(data), 8, toy.CONFIG.seed, step)
        assert torch.equal(x, to_unit(data.images[chosen], u["noise"])) and torch.equal(noise, expected["noise"]), step
    assert len(seen) == 6


def test_a_training_takes_any_source_and_records_what_it_was(tmp_path: Path) -> None:
    fit(toy.Denoise(), Squares(), replace(toy.CONFIG, steps=2, sample_every=0), Run(tmp_path), device="cpu")
    record = Run(tmp_path).config()["data"]
    assert record == {"name": "squares", "rows": 5, "sha256": Squares().fingerprint()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Short gave nothing for 8 rows; expected as many of each"),
        ({"x": torch.ones(3)}, r"Short gave \{'x': \(3,\)\} for 8 rows; expected as many of each"),
    ],
)
def test_a_source_that_gives_other_rows_than_asked_is_refused(tmp_path: Path, given: Batch, message: str) -> None:
    class Short(Squares):
        def batch(self, indices: Tensor) -> Batch:
            return given if len(indices) == 8 else super().batch(indices)

    with pytest.raises(ShapeError, match=message):
        fit(toy.Denoise(), Short(), toy.CONFIG, Run(tmp_path), device="cpu")


def test_draws_of_another_length_than_the_batch_are_refused(tmp_path: Path) -> None:
    class Few(Squares):
        def draw(self, n: int, generator: torch.Generator) -> Batch:
            return {"noise": torch.rand(n - 1, generator=generator)}

    with pytest.raises(ShapeError, match=r"Few.draw\(8, ...\) gave 'noise' of shape \(7,\)"):
        fit(toy.Denoise(), Few(), toy.CONFIG, Run(tmp_path), device="cpu")


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path) -> None:
    short = replace(toy.CONFIG, steps=2, sample_every=0)
    toy.train(tmp_path, config=short)
    other = toy.images()
    other.images[0, 0, 0, 0] ^= 1
    with pytest.raises(CheckpointError, match=r"cannot resume with other settings: data\.sha256"):
        fit(toy.Denoise(), other, short, Run(tmp_path), resume=True, device="cpu")
