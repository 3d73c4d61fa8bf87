import math

import matplotlib.image
import numpy as np
import pytest

from ofmu_jax.contest import plots
from ofmu_jax.contest.answers import ANSWERS, plot_pareto
from ofmu_jax.contest.plots import plot_sensitivity
from ofmu_jax.contest.report import (
    PARETO,
    REPORT,
    SENSITIVITY,
    main_table,
    reference_table,
    sensitivity_table,
    settings_table,
    write_report,
)
from ofmu_jax.contest.summary import summarise as summarise_by
from tests.contest.test_summary import final, trial


def summarise(records, methods):
    return summarise_by(records, methods, ANSWERS)


def figures(p, utility):
    return {
        "forget_quality": p,
        "log10_p": math.log10(p),
        "ks_distance": 0.25,
        "relative_utility": utility,
        "forget_probability": 0.125,
        "retain_probability": 0.75,
    }


RECORDS = [
    trial("weak|er", 0, 0.25, seconds=60.0),
    trial("weak|er", 1, None, seconds=60.0),
    trial("best", 0, 0.9, seconds=1.0),
    trial("best", 1, 0.88, seconds=1.0),
    *(final("best", s, score, figures(0.5, 0.9)) for s, score in enumerate([0.7, 0.9])),
    *(
        final("weak|er", s, score, figures(1e-30, 0.4), seconds=999.6, gradient_equivalents=72.25)
        for s, score in enumerate([0.1, 0.1, None])
    ),
]
REFERENCES = [
    {"method": name, "figures": figures(p, u) | {"score": 0.5, "utility": 0.6}}
    for name, p, u in (("original", 1e-8, 0.9), ("original", 1e-6, 0.7), ("retrained", 1.0, 1.0))
]
METHODS = ("later", "weak|er", "best")
SUMMARY = summarise(RECORDS, METHODS)


def cells(table):
    """The rows of a Markdown table, each by its column's title."""
    rows = [
        [cell.strip() for cell in line.strip("|").replace("\\|", "¦").split("|")]
        for line in table.splitlines()
    ]
    assert len({len(row) for row in rows}) == 1
    assert set(rows[1]) == {"---"}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_main_table_has_the_best_first_and_those_without_runs_last():
    assert [row["method"] for row in cells(main_table(SUMMARY, ANSWERS))] == [
        "best",
        "weak¦er",
        "later",
    ]


def test_the_main_table_s_cells():
    best, weaker, later = cells(main_table(SUMMARY, ANSWERS))
    # t at one degree of freedom: 12.706 standard errors of 0.1.
    assert best == {
        "method": "best",
        "score": "0.800 [-0.471, 2.071]",
        "median p": "0.5",
        "mean D": "0.250",
        "relative utility": "0.900 [0.900, 0.900]",
        "forget prob": "0.125",
        "retain prob": "0.750",
        "vs best other": "0.700 [-0.571, 1.971]",
        "Holm p": "0.09",
        "gradients": "100",
        "seconds": "2.0",
        "peak GiB": "1.00",
        "seeds": "2 ok",
        "trials": "2 ok",
    }
    assert weaker["median p"] == "< 0.0001"
    assert weaker["gradients"] == "72.2" and weaker["seconds"] == "1000"
    assert weaker["seeds"] == "2 ok, 1 diverged"
    assert weaker["trials"] == "1 ok, 1 diverged"
    assert {*later.values()} == {"later", "-", "0 ok"}


def test_one_seed_is_shown_without_an_interval_and_zero_without_a_sign():
    summary = summarise([final("a", 0, 0.5), final("b", 0, 0.5 + 1e-9)], "ab")
    rows = cells(main_table(summary, ANSWERS))
    assert [row["score"] for row in rows] == ["0.500", "0.500"]
    assert [row["vs best other"] for row in rows] == ["0.000", "0.000"]
    assert [row["Holm p"] for row in rows] == ["-", "-"]


def test_the_sensitivity_table_s_cells():
    best, weaker, later = cells(sensitivity_table(SUMMARY))
    assert best == {
        "method": "best",
        "objective of the chosen": "0.900",
        "90 % quantile": "0.898",
        "median": "0.890",
        "trials within 5 % of the best": "100 %",
        "trials": "2 ok",
        "seconds": "2.0",
    }
    assert weaker["trials within 5 % of the best"] == "50 %"
    assert weaker["seconds"] == "120"
    assert later["objective of the chosen"] == later["median"] == "-"


def test_the_settings_table_s_cells():
    record = trial("a", 4, 0.5) | {"point": {"rate": 1.2345e-5, "steps": 3, "loss": "npo"}}
    (row,) = cells(settings_table(summarise([record], "a")))
    assert row == {"method": "a", "trial": "4", "setting": "rate 1.23e-05, steps 3, loss npo"}
    assert cells(settings_table(SUMMARY))[-1] == {"method": "later", "trial": "-", "setting": "-"}


def shades(path):
    """Colours of a picture in eight bits, to see what was drawn."""
    picture = (matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    assert min(picture.shape[:2]) > 400
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0)}


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


@pytest.mark.parametrize("name", [PARETO, SENSITIVITY])
def test_a_plot_shows_every_method_and_leaves_one_file(tmp_path, name):
    draw = {
        PARETO: lambda summary, _, path: plot_pareto(summary, path),
        SENSITIVITY: lambda _, records, path: plot_sensitivity(records, path),
    }[name]
    path = tmp_path / name
    draw(summarise(RECORDS, METHODS[1:]), RECORDS, path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert {BLUE, ORANGE} <= shades(path)
    only = [r for r in RECORDS if r["method"] == "best"]
    draw(summarise(only, ["best"]), only, path)
    assert BLUE in shades(path) and ORANGE not in shades(path)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, still open."""
    figures = []
    with monkeypatch.context() as patch:
        patch.setattr(plots.plt, "close", figures.append)
        yield figures
    plots.plt.close("all")


def test_the_trade_off_s_points_bars_and_directions(tmp_path, drawn):
    utilities = [0.5, 0.7]
    records = [final("a", s, 0.5, figures(0.01, u)) for s, u in enumerate(utilities)]
    plot_pareto(summarise(records, "a"), tmp_path / PARETO)
    (figure,) = drawn
    log, distance = figure.axes
    margin = 12.706 * 0.1  # t at one degree of freedom times the standard error
    for axes, height in ((log, -2), (distance, 0.25)):
        (container,) = axes.containers
        point, _, (bar, _) = container
        assert point.get_xydata() == pytest.approx(np.array([[0.6, height]]))
        expected = [[0.6 - margin, height], [0.6 + margin, height]]
        assert bar.get_segments()[0] == pytest.approx(np.array(expected), abs=1e-3)
        assert container.get_label() == "a"
    assert distance.yaxis_inverted() and not log.yaxis_inverted()
    assert log.get_ylim()[1] == pytest.approx(0.15)
    assert [text.get_text() for text in log.get_yticklabels()] == ["0", "-0.5", "-1", "-2"]


def test_the_profile_of_a_search_falls_in_equal_steps(tmp_path, drawn):
    records = [trial("a", n, o) for n, o in enumerate([0.25, None, 1.0, 0.5])]
    plot_sensitivity([*records, trial("b", 0, 2.0), final("a", 0, 9.0)], tmp_path / SENSITIVITY)
    (axes,) = drawn[0].axes
    assert [line.get_label() for line in axes.lines] == ["b", "a"]
    profile = [[0, 1.0], [25, 1.0], [50, 0.5], [75, 0.25], [100, 0.0]]
    assert axes.lines[1].get_xydata().tolist() == profile
    assert axes.lines[1].get_drawstyle() == "steps-pre"


def test_fourteen_methods_look_different_and_the_same_in_both_plots(tmp_path, drawn):
    methods = [f"method {n}" for n in range(14)]
    runs = [final(name, s, 0.5, figures(0.01, 0.5)) for name in methods for s in (0, 1)]
    searched = [trial(name, 0, 0.5) for name in methods]
    plot_pareto(summarise(runs, methods), tmp_path / PARETO)
    plot_sensitivity(searched[::-1], tmp_path / SENSITIVITY)
    pareto, sensitivity = drawn
    points = {bars.get_label(): bars[0] for bars in pareto.axes[0].containers}
    lines = {line.get_label(): line for line in sensitivity.axes[0].lines}
    assert points.keys() == lines.keys() == set(methods)
    assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 14
    assert len({line.get_marker() for line in lines.values()}) == 14
    for name in methods:
        for look in ("get_color", "get_marker"):
            assert getattr(points[name], look)() == getattr(lines[name], look)()
    for figure in drawn:
        (legend,) = figure.legends
        assert {text.get_text() for text in legend.get_texts()} == set(methods)


def test_plots_of_nothing_are_plots_all_the_same(tmp_path):
    diverged = [final("a", 0, None), final("a", 1, None)]
    plot_pareto(summarise(diverged, "ab"), tmp_path / PARETO)
    plot_sensitivity(diverged, tmp_path / SENSITIVITY)
    for name in (PARETO, SENSITIVITY):
        assert BLUE not in shades(tmp_path / name)


def test_references_are_means_over_replicates():
    original, retrained = cells(reference_table(REFERENCES, ANSWERS))
    assert original["method"] == "original" and original["relative utility"] == "0.800"
    assert original["median p"] == "< 0.0001" and retrained["median p"] == "1"


def test_a_single_seed_is_plotted_without_bars(tmp_path):
    plot_pareto(summarise([final("a", 0, 0.5, figures(0.5, 0.9))], "a"), tmp_path / PARETO)
    assert BLUE in shades(tmp_path / PARETO)


def test_the_report_holds_tables_plots_explanations_and_conditions(tmp_path):
    conditions = {"machine": "two cores", "versions": {"jax": "1.2", "numpy": {"of": 3}}}
    write_report(tmp_path, SUMMARY, REFERENCES, conditions, ANSWERS)
    assert [p.name for p in tmp_path.iterdir()] == [REPORT]
    text = (tmp_path / REPORT).read_text()
    for table in (
        main_table(SUMMARY, ANSWERS),
        sensitivity_table(SUMMARY),
        settings_table(SUMMARY),
        reference_table(REFERENCES, ANSWERS),
        ANSWERS.text.splitlines()[0],
    ):
        assert f"\n\n{table}\n" in text
    for link in (PARETO, SENSITIVITY):
        assert f"]({link})\n" in text
    for words in ("Student's t", "Holm's method", "the other half", "diverged has the least score"):
        assert words in text
    assert "\n- machine: two cores\n- versions: jax 1.2, numpy of 3\n" in text
    assert "\n\n\n" not in text
