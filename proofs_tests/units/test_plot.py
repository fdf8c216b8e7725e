"""What the plots draw: the data of each line equals a formula that does not use the library, on the axes that were given."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from matplotlib import pyplot, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induced import EuclideanSpace, InducedSpace, Linearizer
from induced.bijections import Arctanh, Identity, Log, Simplex, real_nvp
from induced.errors import ShapeError
from induced.plot import plot_singular_vectors, plot_space, plot_spectrum, plot_trajectory
from proofs_tests.units.case import Case
from proofs_tests.units.cases_plot import CASES

LOG = InducedSpace(Log((2,)))
x, y = torch.tensor([1.5, 0.8]).double(), torch.tensor([0.5, 3.0]).double()
TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def no_figures() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def data(ax: Axes) -> list[np.ndarray]:
    """The points (k, 2) of each line."""
    return [np.asarray(line.get_xydata()) for line in ax.lines]


# ------------------------------------------------------------------------------------------------------- spaces
def test_the_grid_of_positive_numbers_is_the_exponential_of_straight_lines(ax: Axes) -> None:
    plot_space(LOG, extent=1.5, lines=5, ax=ax)
    ticks, along = np.linspace(-1.5, 1.5, 5), np.linspace(-1.5, 1.5, 101)
    first = [np.stack([along, np.full(101, c)], 1) for c in ticks]
    straight = first + [line[:, ::-1] for line in first]
    np.testing.assert_allclose(data(ax), np.exp(straight), rtol=1e-14)


def test_the_axes_of_the_coordinates_are_thick_where_the_number_of_lines_is_odd(ax: Axes) -> None:
    plot_space(LOG, lines=3, ax=ax)
    widths = [line.get_linewidth() for line in ax.lines]
    assert [w > widths[0] for w in widths] == [False, True, False] * 2
    even = plot_space(LOG, lines=4, ax=Figure().subplots())
    assert len({line.get_linewidth() for line in even.lines}) == 1


def test_the_parallelogram_of_two_positive_points_has_their_product_as_its_fourth_corner(ax: Axes) -> None:
    plot_space(LOG, lines=2, sums=torch.stack([x, y]), ax=ax)
    *sides, ends, corner = data(ax)[4:]
    one, product = np.ones(2), (x * y).numpy()
    assert len(sides) == 4
    for side, (start, end) in zip(sides, [(one, x), (one, y), (x, product), (y, product)], strict=True):
        t = np.linspace(0, 1, 101)[:, None]
        np.testing.assert_allclose(side, np.asarray(start) ** (1 - t) * np.asarray(end) ** t, rtol=1e-12)
    np.testing.assert_allclose(ends, [x.tolist(), y.tolist()], rtol=1e-12)
    np.testing.assert_allclose(corner, [product], rtol=1e-12)


def test_several_sums_and_segments_are_drawn_and_named_once(ax: Axes) -> None:
    pairs = torch.stack([torch.stack([x, y]), torch.stack([y, y])])
    plot_space(LOG, lines=2, sums=pairs, segments=pairs, ax=ax)
    lines = data(ax)[4:]
    assert [len(line) for line in lines] == [101, 2] * 2 + [101] * 8 + [4, 2]
    np.testing.assert_allclose(lines[-1], np.stack([x * y, y * y]), rtol=1e-12)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["segment", "x, y", "x ⊕ y"]


def test_a_segment_of_velocities_is_straight_in_rapidity(ax: Axes) -> None:
    u, v = np.array([0.9, -0.5]), np.array([-0.3, 0.8])
    plot_space(InducedSpace(Arctanh((2,))), segments=torch.tensor(np.stack([u, v])), lines=2, ax=ax)
    curve, ends = data(ax)[4:]
    t = np.linspace(0, 1, 101)[:, None]
    np.testing.assert_allclose(curve, np.tanh((1 - t) * np.arctanh(u) + t * np.arctanh(v)), rtol=1e-12)
    np.testing.assert_allclose(ends, [u, v], rtol=1e-12)


def test_a_view_brings_compositions_to_the_plane(ax: Axes) -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
    plot_space(InducedSpace(Simplex(3)), extent=1.0, lines=3, view=lambda p: p @ corners, ax=ax)
    t = np.linspace(-1, 1, 101)
    # the middle line of the first family: logs (t, -t, 0) / sqrt(2), up to a constant
    parts = np.exp(np.stack([t, -t, 0 * t], 1) / np.sqrt(2))
    np.testing.assert_allclose(data(ax)[1], parts / parts.sum(1, keepdims=True) @ corners.numpy(), rtol=1e-12)


def test_the_grid_of_a_float32_chart_with_parameters_is_drawn_without_a_graph(ax: Axes) -> None:
    space = InducedSpace(real_nvp(2))
    plot_space(space, lines=2, sums=torch.randn(1, 2, 2), ax=ax)
    z = torch.stack([torch.linspace(-2, 2, 101), torch.full((101,), -2.0)], 1)
    assert np.abs(data(ax)[0] - space.point(z).detach().numpy()).max() < 1e-5


# ------------------------------------------------------------------------------------------------------ spectra
def test_eigenvalues_are_points_of_the_complex_plane_beside_the_unit_circle(ax: Axes) -> None:
    A = torch.randn(5, 5, dtype=torch.float64)
    plot_spectrum(Linearizer(A, EuclideanSpace(5)), ax=ax)
    circle, points = data(ax)[-2:]
    np.testing.assert_allclose(np.hypot(*circle.T), 1.0)
    drawn = points[:, 0] + 1j * points[:, 1]
    np.testing.assert_allclose(np.sort_complex(drawn), np.sort_complex(np.linalg.eigvals(A.numpy())), rtol=1e-10)
    assert ax.get_aspect() == 1.0


def test_a_spectrum_is_drawn_as_its_operator_is(ax: Axes) -> None:
    f = Linearizer(TURN, LOG)
    other = plot_spectrum(f.spectrum(), ax=Figure().subplots())
    plot_spectrum(f, ax=ax)
    assert all(np.array_equal(a, b) for a, b in zip(data(ax), data(other), strict=True))


def test_singular_values_descend_on_a_logarithmic_axis(ax: Axes) -> None:
    A = torch.randn(3, 5, dtype=torch.float64)
    plot_spectrum(Linearizer(A, EuclideanSpace(5), EuclideanSpace(3)).svd(2), ax=ax)
    (line,) = data(ax)
    np.testing.assert_allclose(line, [[1, np.linalg.norm(A, 2)], [2, np.linalg.svd(A)[1][1]]], rtol=1e-12)
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize(("diagonal", "scale"), [([2.0, 0.0, 0.0], "log"), ([0.0, 0.0, 0.0], "linear")])
def test_singular_values_that_a_logarithm_cannot_show_are_counted(diagonal: list[float], scale: str, ax: Axes) -> None:
    plot_spectrum(Linearizer(torch.diag(torch.tensor(diagonal)), EuclideanSpace(3)).svd(), ax=ax)
    assert ax.get_xlabel() == f"i ({diagonal.count(0.0)} values are 0)"
    assert ax.get_yscale() == scale


# ---------------------------------------------------------------------------------------------- singular vectors
def stems(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Where the stems start and end."""
    segments = np.asarray(ax.collections[0].get_segments())  # type: ignore[attr-defined]
    return segments[:, 0, 1], segments[:, 1, 1]


def test_singular_vectors_of_positive_numbers_are_exponentials_that_start_at_one() -> None:
    A = torch.randn(4, 3, dtype=torch.float64)
    axes = plot_singular_vectors(Linearizer(A, InducedSpace(Log((3,))), EuclideanSpace(4)), 2, scale=2.0)
    assert axes.shape == (2, 2)
    _, s, Vh = np.linalg.svd(A.numpy())
    for i in range(2):
        start, end = stems(axes[0, i])
        sign = np.sign(np.log(end) @ Vh[i])
        np.testing.assert_allclose(end, np.exp(2 * sign * Vh[i]), rtol=1e-10)
        np.testing.assert_allclose(start, 1.0)
        start, below = stems(axes[1, i])
        # f(v_i) = s_i (.) u_i, both doubled
        np.testing.assert_allclose(A.numpy() @ np.log(end), s[i] * below, rtol=1e-10)
        np.testing.assert_allclose(start, 0.0)
        assert axes[0, i].get_title() == f"$s_{{{i + 1}}}$ = {s[i]:.3g}"


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3)])
def test_singular_vectors_of_grey_images_are_images_on_one_scale(shape: tuple[int, ...]) -> None:
    A = torch.diag(torch.arange(6.0, 0.0, -1.0))
    axes = plot_singular_vectors(Linearizer(A, InducedSpace(Identity(shape))), 3, ax=Figure().subplots(2, 3))
    for i in range(3):
        (image,) = axes[0, i].images
        drawn = np.asarray(image.get_array())
        assert np.array_equal(np.abs(drawn), np.eye(6)[i].reshape(2, 3))
    limits = {each.images[0].get_clim() for each in axes[0]}
    values = np.stack([each.images[0].get_array() for each in axes[0]])
    assert limits == {(min(values.min(), 0.0), max(values.max(), 0.0))}


def test_singular_vectors_of_colour_images_fill_the_range_of_colours() -> None:
    f = Linearizer(torch.diag(torch.arange(12.0, 0.0, -1.0)), EuclideanSpace((3, 2, 2)))
    axes = plot_singular_vectors(f.svd(2), 2)
    images = np.stack([np.asarray(each.images[0].get_array()) for each in axes[0]])
    assert images.shape == (2, 2, 2, 3) and images.min() == 0.0 and images.max() == 1.0
    points = f.svd(2).right().movedim(1, -1).numpy()
    np.testing.assert_allclose(images, (points - points.min()) / (points.max() - points.min()))


def test_a_flat_row_of_images_has_a_scale() -> None:
    flat = InducedSpace(Identity((3, 1, 1)))
    axes = plot_singular_vectors(Linearizer(torch.zeros(3, 3), flat), 1, scale=0.0)
    assert np.isfinite(np.asarray(axes[0, 0].images[0].get_array())).all()
    plot_singular_vectors(Linearizer(torch.zeros(3, 3), EuclideanSpace(3)), 1, scale=0.0)


# -------------------------------------------------------------------------------------------------- trajectories
def test_the_powers_of_a_map_of_positive_numbers_are_powers_of_the_logarithm(ax: Axes) -> None:
    A = torch.tensor([[0.9, -0.5], [0.4, 1.1]], dtype=torch.float64)
    plot_trajectory(Linearizer(A, LOG), torch.stack([x, y]), steps=4, ax=ax)
    for start, path, mark in zip((x, y), data(ax)[::2], data(ax)[1::2], strict=True):
        expected = [np.exp(np.linalg.matrix_power(A.numpy(), k) @ start.log().numpy()) for k in range(5)]
        np.testing.assert_allclose(path, expected, rtol=1e-12)
        np.testing.assert_allclose(mark, [start.tolist()], rtol=1e-12)


def test_the_flow_of_a_turn_is_a_circle_in_the_plane_and_waves_over_time(ax: Axes) -> None:
    f, t = Linearizer(TURN, EuclideanSpace(2)), np.linspace(0, 6, 50)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    plot_trajectory(f, start, times=torch.tensor(t), ax=ax)
    np.testing.assert_allclose(data(ax)[0], np.stack([np.cos(t), np.sin(t)], 1), atol=1e-12)
    over = plot_trajectory(f, start, times=t.tolist(), over_time=True, ax=Figure().subplots())
    for line, wave in zip(data(over), (np.cos(t), np.sin(t)), strict=True):
        np.testing.assert_allclose(line, np.stack([t, wave], 1), atol=1e-12)
    assert ax.get_aspect() == 1.0 and over.get_aspect() == "auto"


def test_entries_over_time_have_a_line_a_start_and_one_name(ax: Axes) -> None:
    f = Linearizer(2 * torch.eye(4), EuclideanSpace((2, 2)))
    plot_trajectory(f, torch.ones(3, 2, 2), steps=2, over_time=True, ax=ax)
    assert all(np.array_equal(line, [[0, 1], [1, 2], [2, 4]]) for line in data(ax)) and len(ax.lines) == 12
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"$x_{{{j}}}$" for j in range(1, 5)]
    many = plot_trajectory(Linearizer(torch.eye(9), EuclideanSpace(9)), torch.ones(9), steps=1, over_time=True)
    assert many.get_legend() is None


def test_a_view_draws_the_trajectory_of_matrices(ax: Axes) -> None:
    f = Linearizer(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])), EuclideanSpace((2, 2)))
    plot_trajectory(f, torch.ones(2, 2), steps=2, view=lambda m: m.diagonal(dim1=-2, dim2=-1), ax=ax)
    assert np.array_equal(data(ax)[0], [[1, 1], [1, 4], [1, 16]])


# ----------------------------------------------------------------------------------- axes, figures, global state
DRAWN: dict[str, Callable[..., object]] = {
    "plot_space": lambda **ax: plot_space(LOG, **ax),
    "plot_spectrum": lambda **ax: plot_spectrum(Linearizer(TURN, LOG), **ax),
    "plot_singular_values": lambda **ax: plot_spectrum(Linearizer(TURN, LOG).svd(), **ax),
    "plot_trajectory": lambda **ax: plot_trajectory(Linearizer(TURN, LOG), x, steps=2, **ax),
    "plot_trajectory over time": lambda **ax: plot_trajectory(Linearizer(TURN, LOG), x, times=[0.0], over_time=True, **ax),
}


@pytest.mark.parametrize("name", DRAWN)
def test_axes_that_are_given_come_back_and_no_figure_is_made(name: str, ax: Axes) -> None:
    before = dict(rcParams)
    assert DRAWN[name](ax=ax) is ax
    assert pyplot.get_fignums() == [] and dict(rcParams) == before


@pytest.mark.parametrize("name", DRAWN)
def test_without_axes_there_is_one_new_figure(name: str) -> None:
    _, current = pyplot.subplots()
    drawn = DRAWN[name]()
    assert isinstance(drawn, Axes) and drawn is not current and len(pyplot.get_fignums()) == 2
    assert not current.lines


@pytest.mark.parametrize("make", [lambda: Figure().subplots(2, 2), lambda: list(Figure().subplots(1, 4))])
def test_singular_vectors_take_an_array_or_a_list_of_axes(make: Callable[[], object]) -> None:
    given = make()
    axes = plot_singular_vectors(Linearizer(TURN, LOG), 2, ax=given)  # type: ignore[arg-type]
    assert [*axes.flat] == [*np.asarray(given).flat] and pyplot.get_fignums() == []


SHAPES = [case for case in CASES if issubclass(case.error, ShapeError)]


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.message[:40])
def test_what_cannot_be_drawn_leaves_no_empty_figure(case: Case) -> None:
    with pytest.raises(ShapeError):
        case.act()
    assert pyplot.get_fignums() == []
