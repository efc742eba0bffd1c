"""The appendix's effects have the direction that the theory gives."""

from lpft_utils.studies import published_effects as study


def test_the_same_kernel_with_many_more_reverse_passes():
    table = study.cost_table(1)
    assert int(table["reverse passes"].iloc[0]) == 32 * 5
    assert float(table["relative difference"].iloc[1]) < 1e-10


def test_a_shared_draw_inflates_the_trace_and_the_stride_loses_rows():
    table = study.embedding_table(n=16, draws=60)
    shared, separate, stride, exact = (float(cell.split()[0]) for cell in table["with itself"])
    assert shared > 4 and abs(separate - 1) < 1 and stride < shared and exact == 1
    assert float(table["error"]["one draw for both factors, as published"]) > 1
    assert table["zero rows"]["one draw, rows at stride 8"] == "88 %"


def test_the_installed_head_is_as_accurate_and_less_confident():
    table = study.binary_head_table()
    assert table["accuracy"].nunique() == 1
    assert abs(float(table["‖V‖"]["fitted"]) - 2 * float(table["‖V‖"]["installed"])) < 0.02
    assert float(table["cross-entropy"]["installed"]) > float(table["cross-entropy"]["fitted"])


def test_the_published_accuracy_has_another_chance_level():
    table = study.regression_accuracies()
    assert set(table["chance there"]) == {"67 %"}
    ours, theirs = (table[c].str.rstrip(" %").astype(int) for c in ("argmax over classes", "as published"))
    assert theirs["without signal"] > 1.5 * ours["without signal"]
    assert ours["weak signal"] - ours["without signal"] > theirs["weak signal"] - theirs["without signal"]


def test_gpt2_departures_have_a_size():
    table = study.gpt2_table(4)
    assert table["missing from F"]["by the formula"] == "0.0 %"
    assert float(table["missing from F"]["without the final layer norm"].rstrip(" %")) > 0
    assert float(table["change of P"]["with +1 on P"].rstrip(" %")) > 0


def test_the_two_brier_scores_differ_by_the_number_of_classes():
    for C, row in study.brier_table().iterrows():
        assert abs(float(row["over examples"]) / C - float(row["over examples × classes"])) < 1e-3
