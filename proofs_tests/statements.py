"""Every statement of the mathematics: its symbolic proof, the laws that random inputs obey, and what those laws reject.

`pytest` ends with this table and what became of each cell; `python -m proofs_tests.statements` writes docs/theory/statements.md.
A pattern is the beginning of a test's id: a file, a test, or a test with the beginning of its parameters.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "theory" / "statements.md"


class Statement(NamedTuple):
    """A numbered statement, or one without a number by its name, the tests that stand for it, and its page in docs/theory."""

    number: str
    claim: str
    proofs: tuple[str, ...]
    laws: tuple[str, ...]
    counterexamples: tuple[str, ...]
    page: str = "linearizer.md"


REJECT = "counterexamples/test_checks_reject.py::test_"
REJECT_CHART = "counterexamples/test_chart_checks_reject.py::test_"
REJECT_MAP = "counterexamples/test_map_checks_reject.py::test_"
REJECT_ENDO = "counterexamples/test_endomorphism_checks_reject.py::test_"
REJECT_OTHER = "counterexamples/test_statements_reject.py::test_"
HOLD = ("laws/test_linearizer.py::test_the_laws_hold_over", "laws/test_pairs.py::test_a_chart_and_a_core_obey_the_laws_together")
PROPAGATORS = "laws/test_propagators.py::test_"
MAGNUS = "laws/test_magnus.py::test_"
STEPS = "laws/test_steps.py::test_"
LOSSES = "applications/flow_matching/test_losses.py::test_"
ONE_STEP = "applications/flow_matching/test_one_step.py::test_"

STATEMENTS = (
    Statement(
        "Def 2.2",
        "x + y = g^-1(g(x) + g(y)), a x = g^-1(a g(x))",
        ("proofs/test_prop_2_3_vector_space.py",),
        (
            "laws/test_spaces.py::test_combine_is_add_and_scale",
            "laws/test_spaces.py::test_combinations_of_positive_numbers_are_products_of_powers",
            "laws/test_vectors.py::test_vectors_do_the_algebra_of_their_space",
        ),
        (f"{REJECT}check_space_rejects[a sum that leaves", f"{REJECT}check_space_rejects[multiples"),
        page="transport.md",
    ),
    Statement(
        "Prop 2.3",
        "(V, +, .) obeys the nine axioms of a vector space",
        ("proofs/test_prop_2_3_vector_space.py",),
        ("laws/test_spaces.py::test_the_axioms_of_a_hilbert_space_hold",),
        (f"{REJECT}check_space_rejects", f"{REJECT_CHART}every_report_of_check_space_has_its_counterexample"),
        page="transport.md",
    ),
    Statement(
        "Def 2.6",
        "<x, y> = <g(x), g(y)>",
        ("proofs/test_prop_2_7_inner_product.py",),
        (
            "laws/test_spaces.py::test_the_geometry_is_that_of_the_coordinates",
            "laws/test_spaces.py::test_cauchy_schwarz_and_the_triangle_inequality",
        ),
        (f"{REJECT}check_space_rejects[an inner product",),
        page="transport.md",
    ),
    Statement(
        "Prop 2.7",
        "V is a Hilbert space, isometric to R^n",
        ("proofs/test_prop_2_7_inner_product.py",),
        (
            "laws/test_spaces.py::test_the_axioms_of_a_hilbert_space_hold",
            "laws/test_bijections.py::test_the_checks_of_a_bijection_pass",
        ),
        (
            f"{REJECT}check_space_rejects[a norm of another kind",
            f"{REJECT}check_space_rejects_a_chart_that_is_not_injective",
            f"{REJECT}check_bijection_rejects",
        ),
        page="transport.md",
    ),
    Statement(
        "Def 2.1",
        "f = g_y^-1 A g_x",
        ("proofs/test_prop_2_4_linearity.py",),
        (
            "laws/test_linearizer.py::test_a_linearizer_is_its_formula",
            "laws/test_linearizer.py::test_on_positive_numbers_a_linearizer_is_a_monomial_map",
            "laws/test_pairs.py::test_a_chart_and_a_core_are_their_formula_for_every_batch",
        ),
        (
            "laws/test_linearizer.py::test_a_linearizer_is_not_additive_for_the_ordinary_sum",
            f"{REJECT_MAP}check_linear_rejects_a_bias_between_charts",
        ),
    ),
    Statement(
        "Prop 2.4",
        "f(a u + b v) = a f(u) + b f(v)",
        ("proofs/test_prop_2_4_linearity.py",),
        HOLD,
        (f"{REJECT_MAP}check_linear_rejects",),
    ),
    Statement(
        "Prop 2.5",
        "composition: the core is A2 A1, the middle space the same",
        ("proofs/test_prop_2_5_composition.py",),
        (
            "laws/test_linearizer.py::test_composition_is_that_of_the_cores",
            "laws/test_linearizer.py::test_the_adjoint_of_a_composition_reverses_it",
        ),
        (
            f"{REJECT_OTHER}composition_rejects",
            "units/test_errors.py::test_the_message_names_what_came_and_what_was_expected[SpaceMismatch: f @ h needs h to end",
        ),
    ),
    Statement(
        "eq. 4",
        "f^N = g^-1 A^N g",
        ("proofs/test_eq_4_powers.py",),
        (
            "laws/test_linearizer.py::test_powers_are_repeated_application",
            "laws/test_analysis.py::test_powers_and_the_group_hold_over_every_core",
            "laws/test_analysis.py::test_powers_the_group_and_projections_hold_over_every_chart",
        ),
        (f"{REJECT_ENDO}check_powers_rejects",),
    ),
    Statement(
        "Prop 2.8",
        "f* = g_x^-1 A^T g_y, <f(x), y> = <x, f*(y)>",
        ("proofs/test_prop_2_8_adjoint.py",),
        (*HOLD, "laws/test_linearizer.py::test_the_adjoint_is_an_involution"),
        (
            f"{REJECT_MAP}check_adjoint_rejects_the_map_itself_as_its_adjoint",
            f"{REJECT_MAP}check_adjoint_rejects_an_adjoint_that_does_not_lead_back",
        ),
    ),
    Statement(
        "Prop 2.9",
        "f(v_i) = s_i u_i, f*(u_i) = s_i v_i, both orthonormal",
        ("proofs/test_prop_2_9_svd.py",),
        (*HOLD, "laws/test_linearizer.py::test_singular_values_are_those_of_the_core_and_vectors_are_points"),
        (f"{REJECT_MAP}check_svd_rejects",),
    ),
    Statement(
        "Lemma 4.1",
        "f+ = g_x^-1 A+ g_y obeys the four Penrose equations",
        ("proofs/test_lemma_4_1_pseudoinverse.py",),
        (*HOLD, "laws/test_linearizer.py::test_the_pseudoinverse_gives_the_shortest_least_squares_solution"),
        (f"{REJECT_MAP}check_penrose_rejects",),
    ),
    Statement(
        "Lemma 4.2",
        "f f = f  <=>  A A = A",
        ("proofs/test_lemma_4_2_idempotent.py",),
        (
            "laws/test_analysis.py::test_powers_the_group_and_projections_hold_over_every_chart",
            "laws/test_structures.py::test_projections_are_exact_and_idempotent_bit_for_bit",
            "laws/test_lattice.py::test_a_global_projector_is_idempotent_to_the_bit",
        ),
        (f"{REJECT_ENDO}check_idempotent_rejects", f"{REJECT_ENDO}exact_idempotency_is_judged_by_bits"),
    ),
    Statement(
        "eqs. 10-13",
        "path, velocity, model and loss of flow matching",
        ("proofs/test_eqs_10_13_flow_matching.py",),
        (
            f"{LOSSES}the_velocity_loss_is_its_formula_sample_by_sample",
            f"{LOSSES}the_loss_is_the_weighted_sum_of_its_parts_and_each_part_its_formula",
        ),
        (f"{ONE_STEP}the_velocity_loss_is_least_at_the_gaussian_oracle",),
        page="flow_matching.md",
    ),
    Statement(
        "eqs. 14-16",
        "a step of Euler is the matrix I + h A_t",
        ("proofs/test_eqs_14_17_collapse.py",),
        (
            f"{PROPAGATORS}euler_of_one_step_is_the_identity_plus_the_first_operator",
            f"{PROPAGATORS}one_operator_takes_the_steps_of_the_integrator",
            f"{PROPAGATORS}methods_converge_with_their_order",
        ),
        (f"{PROPAGATORS}steps_are_ordered_in_time",),
        page="flow_matching.md",
    ),
    Statement(
        "eq. 17",
        "B = S_{T-1} ... S_0 is the T-step sampler in one step",
        ("proofs/test_eqs_14_17_collapse.py",),
        (
            f"{PROPAGATORS}one_operator_takes_the_steps_of_the_integrator",
            f"{STEPS}steps_one_by_one_are_the_collapsed_operator",
            f"{ONE_STEP}one_step_is_many_steps",
        ),
        (f"{PROPAGATORS}steps_are_ordered_in_time",),
        page="flow_matching.md",
    ),
    Statement(
        "eqs. 48-53",
        "RK4 is the matrix I + h/6 (K1 + 2 K2 + 2 K3 + K4)",
        ("proofs/test_app_f_rk4.py",),
        (
            f"{PROPAGATORS}one_operator_takes_the_steps_of_the_integrator",
            f"{PROPAGATORS}rk4_of_a_constant_operator_is_its_taylor_polynomial",
            f"{PROPAGATORS}methods_converge_with_their_order",
        ),
        (f"{PROPAGATORS}unchained_stages_are_first_order_only_and_are_told_apart",),
        page="flow_matching.md",
    ),
    Statement(
        "magnus4",
        "Magnus' step at two Gauss nodes is of order 4",
        ("proofs/test_magnus_order.py",),
        (
            f"{MAGNUS}a_magnus_step_is_the_exponential_of_two_gauss_nodes",
            f"{PROPAGATORS}methods_converge_with_their_order",
            f"{MAGNUS}magnus_backwards_inverts_exactly",
            f"{MAGNUS}the_determinant_of_magnus_is_the_exponential_of_the_traces",
        ),
        (f"{REJECT_OTHER}a_magnus_step_rejects",),
        page="flow_matching.md",
    ),
    Statement(
        "Thm H.5",
        "any finite data have a Linearizer if max(n, m) >= 2",
        ("proofs/test_thm_h_5_exact_fit.py",),
        (
            "laws/test_interpolation.py::test_any_data_have_a_linearizer_in_the_plane_or_above",
            "laws/test_interpolation.py::test_a_thousand_pairs_are_met_to_rounding",
            "laws/test_interpolation.py::test_it_is_a_linearizer_like_any_other",
        ),
        (
            "laws/test_interpolation.py::test_on_a_line_a_function_with_two_equal_values_is_no_linearizer",
            "laws/test_interpolation.py::test_points_too_close_for_the_dtype_are_refused",
        ),
    ),
    Statement(
        "§3.1 limits",
        "all fibres are alike: x^2 and three isolated zeros are out of reach",
        ("proofs/test_limits.py",),
        ("laws/test_interpolation.py::test_every_fibre_has_the_dimension_of_the_kernel_so_three_zeros_are_never_all",),
        ("laws/test_interpolation.py::test_on_a_line_a_function_with_two_equal_values_is_no_linearizer",),
        page="limits.md",
    ),
    Statement(
        "sum, multiple",
        "f + h and a f have the cores A_f + A_h and a A",
        ("proofs/test_prop_2_4_linearity.py::test_operators_between_two_spaces_are_combined_by_their_cores",),
        ("laws/test_linearizer.py::test_maps_between_two_spaces_are_a_vector_space",),
        (
            f"{REJECT_OTHER}the_sum_of_maps_rejects",
            "units/test_errors.py::test_the_message_names_what_came_and_what_was_expected[SpaceMismatch: f \\+ h",
        ),
    ),
    Statement(
        "§7 exp",
        "exp(s f) exp(t f) = exp((s + t) f), d/dt exp(t f) = f at 0",
        ("proofs/test_exp_group.py",),
        (
            "laws/test_linearizer.py::test_the_exponential_is_a_one_parameter_group",
            "laws/test_linearizer.py::test_the_exponential_flows_with_velocity_f",
            "laws/test_analysis.py::test_powers_and_the_group_hold_over_every_core",
        ),
        (
            f"{REJECT_ENDO}check_group_rejects",
            f"{REJECT_ENDO}the_derivative_of_a_group_tells_maps_apart_that_differ_little",
        ),
    ),
    Statement(
        "analytic functions",
        "phi(f) = g^-1 phi(A) g, wherever phi(A) is real",
        ("proofs/test_analytic_functions.py",),
        (
            "laws/test_analysis.py::test_functions_of_an_operator_are_those_of_its_matrix",
            "laws/test_functions.py::test_entire_functions_are_those_of_scipy",
            "laws/test_functions.py::test_laws_of_the_logarithm",
            "laws/test_functions.py::test_laws_of_roots",
        ),
        (
            "laws/test_functions.py::test_a_negative_eigenvalue_has_no_logarithm_and_no_root",
            "laws/test_functions.py::test_log_exp_is_not_the_identity_beyond_pi_nor_sqrt_square_for_negative_real_parts",
            "laws/test_functions.py::test_eigenvectors_are_what_the_oracle_of_defective_matrices_rejects",
        ),
    ),
    Statement(
        "kernel, range",
        "those of A, pulled back",
        ("proofs/test_kernel_range.py",),
        ("laws/test_analysis.py::test_kernel_and_range_are_subspaces_of_the_right_dimensions",),
        (f"{REJECT_OTHER}the_kernel_rejects",),
    ),
    Statement(
        "invariants",
        "norm, condition, rank; trace, determinant, spectrum on one space",
        (
            "proofs/test_prop_2_9_svd.py::test_the_largest_singular_value_is_the_operator_norm",
            "proofs/test_kernel_range.py",
            "proofs/test_invariance.py",
        ),
        (
            "laws/test_analysis.py::test_norms_and_condition_are_those_of_the_matrix",
            "laws/test_analysis.py::test_trace_and_determinant_are_those_of_the_matrix",
            "laws/test_analysis.py::test_the_spectrum_is_that_of_the_matrix_and_its_subspaces_are_invariant",
        ),
        (
            "laws/test_spectral.py::test_the_check_of_invariance_rejects_other_subspaces",
            "laws/test_analysis.py::test_the_volume_between_two_spaces_has_no_sign",
        ),
    ),
    Statement(
        "projection",
        "onto span{x_i}: g^-1 Q Q^T g",
        ("proofs/test_lemma_4_2_idempotent.py::test_the_orthogonal_projection_is_idempotent_and_self_adjoint",),
        (
            "laws/test_subspaces.py::test_the_projection_is_idempotent_orthogonal_and_nearest",
            "laws/test_spans.py::test_orthonormalized_points_are_orthonormal_and_span_the_points",
        ),
        (f"{REJECT_OTHER}the_projection_rejects", "laws/test_subspaces.py::test_a_point_off_the_subspace_is_no_member"),
        page="transport.md",
    ),
    Statement(
        "least squares",
        "A = argmin sum w_i |A g_x(x_i) - g_y(y_i)|^2 + |(A - A_0) P^1/2|^2",
        ("proofs/test_least_squares.py",),
        (
            "laws/test_fitting.py::test_the_core_solves_the_normal_equations",
            "laws/test_fitting.py::test_the_core_is_that_of_the_stacked_problem",
            "laws/test_fitting_in_batches.py::test_batches_in_any_order_and_number_of_problems_give_the_fit_of_all_data",
            "laws/test_fitting.py::test_no_core_of_the_allowed_rank_is_better",
            "laws/test_fitting.py::test_the_fit_is_extended_dmd_with_the_chart_as_its_dictionary",
        ),
        (
            f"{REJECT_OTHER}the_normal_equations_reject",
            "laws/test_fitting_in_batches.py::test_a_triangle_keeps_the_digits_that_the_normal_equations_lose",
        ),
    ),
    Statement(
        "invariance",
        "g -> M g, A -> M A M^-1 leaves f, trace, determinant, eigenvalues, rank",
        ("proofs/test_invariance.py",),
        ("laws/test_analysis.py::test_a_change_of_chart_keeps_trace_determinant_and_eigenvalues_and_turns_singular_values",),
        (f"{REJECT_OTHER}the_change_of_chart_rejects",),
    ),
    Statement(
        "Jacobian",
        "A is similar to the Jacobian of f at 0_g, for smooth charts",
        ("proofs/test_invariance.py::test_the_core_is_similar_to_the_jacobian_at_zero",),
        (
            "laws/test_analysis.py::test_the_core_is_similar_to_the_jacobian_at_the_zero_vector",
            "laws/test_linearizer.py::test_a_jacobian_at_zero_is_similar_to_the_core",
        ),
        (f"{REJECT_OTHER}similarity_rejects",),
    ),
    Statement(
        "c I + U V^T",
        "functions, pseudoinverse, singular values and determinant in O(n r^2)",
        ("proofs/test_low_rank_functions.py",),
        (
            "laws/test_functions.py::test_functions_of_c_I_plus_low_rank_hold_for_singular_and_defective_parts",
            "laws/test_inverses.py::test_the_inverse_of_c_I_plus_low_rank_holds_where_the_capacitance_is_singular",
            "laws/test_inverses.py::test_svd_has_the_values_of_lapack_and_orthonormal_vectors",
            "laws/test_invariants.py::test_trace_and_determinant_are_those_of_numpy",
        ),
        (
            "laws/test_inverses.py::test_the_inverse_does_not_trust_the_capacitance_matrix",
            "laws/test_functions.py::test_eigenvectors_are_what_the_oracle_of_defective_matrices_rejects",
        ),
    ),
    Statement(
        "convolution",
        "the adjoint of a convolution, for every padding",
        ("proofs/test_convolution.py",),
        ("laws/test_convolutions.py::test_a_convolution_and_its_adjoint_are_exact_for_every_padding",),
        ("laws/test_convolutions.py::test_the_law_of_the_adjoint_rejects_the_flipped_kernel_under_reflect_padding",),
        page="style_transfer.md",
    ),
    Statement(
        "Gaussian oracle",
        "A_t of straight paths from N(0, I) to N(0, C), and B = C^1/2",
        ("proofs/test_gaussian_oracle.py",),
        (
            f"{PROPAGATORS}the_gaussian_rate_is_the_logarithmic_derivative_of_the_standard_deviation",
            f"{ONE_STEP}the_propagator_of_the_gaussian_oracle_has_its_standard_deviations_as_singular_values",
        ),
        (f"{ONE_STEP}the_velocity_loss_is_least_at_the_gaussian_oracle",),
        page="flow_matching.md",
    ),
    Statement(
        "metric",
        "G = J^T J; geodesics g^-1(g(x) + t J v)",
        ("proofs/test_metric.py",),
        (
            "laws/test_metric.py::test_the_metric_is_the_pullback_of_the_euclidean_one",
            "laws/test_metric.py::test_a_geodesic_starts_with_its_velocity_and_keeps_its_speed",
        ),
        (f"{REJECT_OTHER}the_speed_of_a_geodesic_rejects",),
        page="transport.md",
    ),
    Statement(
        "§5 lattice",
        "shifts on 2^-b Z: g^-1 g = id and f f = f bit for bit",
        ("proofs/test_lattice.py",),
        (
            "laws/test_lattice.py::test_round_trips_are_exact_to_the_bit",
            "laws/test_lattice.py::test_a_global_projector_is_idempotent_to_the_bit",
            "laws/test_lattice.py::test_addition_of_points_is_exact_and_multiples_are_rounded_by_half_a_step",
        ),
        (
            "laws/test_lattice.py::test_ordinary_couplings_are_not_exact",
            "laws/test_lattice.py::test_the_ordinary_projector_is_not_idempotent_to_the_bit",
            "laws/test_lattice.py::test_the_bound_is_sharp",
        ),
        page="numerical_honesty.md",
    ),
    Statement(
        "§7 amplification",
        "the round trip errs by about eps sum |J^-1| |z_l|",
        ("proofs/test_amplification.py",),
        (
            "laws/test_amplification.py::test_the_amplification_is_as_large_as_the_error_and_no_thousand_times_larger",
            "laws/test_bijections.py::test_round_trips_stay_within_the_amplification",
        ),
        (
            "laws/test_amplification.py::test_an_error_that_rounding_does_not_explain_is_told",
            "laws/test_amplification.py::test_the_amplification_sees_that_a_chart_breaks",
        ),
        page="numerical_honesty.md",
    ),
)


def matches(pattern: str, test: str) -> bool:
    """Whether the id of a test begins with a pattern: a file, a test of it, or parameters of that test."""
    rest = test.removeprefix("proofs_tests/").partition(pattern)
    return not rest[0] and bool(rest[1]) and ("[" in pattern or not rest[2][:1].isalnum())


def cell(patterns: Sequence[str], outcomes: dict[str, str]) -> str:
    """What became of the tests of a cell: FAILED if one did."""
    ran = Counter(outcomes[test] for test in outcomes if any(matches(pattern, test) for pattern in patterns))
    if not patterns:
        return "-"
    if ran["failed"]:
        return f"{ran['failed']} FAILED"
    return f"{ran['passed']} passed" if ran["passed"] else "not run"


def table(outcomes: dict[str, str]) -> list[str]:
    """A line for each statement of which a test ran."""
    lines = []
    for s in STATEMENTS:
        cells = [cell(patterns, outcomes) for patterns in (s.proofs, s.laws, s.counterexamples)]
        if any(c not in {"-", "not run"} for c in cells):
            lines.append(f"{s.number:20}{cells[0]:>12}{cells[1]:>14}{cells[2]:>18}   {s.claim}")
    return [f"{'statement':20}{'proof':>12}{'laws':>14}{'counterexamples':>18}", *lines] if lines else []


def linked(patterns: Iterable[str]) -> str:
    """Links to the files of patterns, each once."""
    files = dict.fromkeys(pattern.partition("::")[0] for pattern in patterns)
    return ", ".join(f"[{file.removesuffix('.py')}](../../proofs_tests/{file})" for file in files)


def claim(s: Statement) -> str:
    """The claim for a cell of a table, whose bars end cells."""
    return s.claim.replace("|", "\\|")


def page() -> str:
    """docs/theory/statements.md."""
    rows = [
        f"| [{s.number}]({s.page}) | `{claim(s)}` | {linked(s.proofs)} | {linked(s.laws)} | {linked(s.counterexamples)} |"
        for s in STATEMENTS
    ]
    return "\n".join(
        [
            "# Every statement, its proof, its laws, its counterexamples",
            "",
            "Numbers are the paper's; what has none is named. A proof is symbolic (sympy); its file says what it assumes, and",
            "refutes false variants. A law is checked on random inputs, over the charts and cores of",
            "[registry.py](../../proofs_tests/registry.py). A counterexample is a broken object that the law must reject.",
            "`make test` ends with this table and what became of each cell; `python -m proofs_tests.statements` writes this",
            "page from [statements.py](../../proofs_tests/statements.py), which names each test.",
            "",
            "| statement | claim | proof | laws | counterexamples |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
