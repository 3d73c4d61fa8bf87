import io

import numpy as np
import pytest

from ofmu_jax.errors import InputError
from ofmu_jax.evals.vision import (
    UnlearningScores,
    histograms,
    plot_confusions,
    plot_histograms,
    plot_predictions,
    plot_trade_off,
)


def is_png(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=30)
    return content.getvalue().startswith(b"\x89PNG")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_confusions_show_shares_and_counts():
    before, after = np.array([[8, 2], [0, 5]]), np.array([[0, 0], [1, 4]])
    figure = plot_confusions(before, after, ["cat", "dog"])
    left, right, _ = figure.axes
    np.testing.assert_allclose(left.images[0].get_array(), [[0.8, 0.2], [0, 1]])
    np.testing.assert_allclose(right.images[0].get_array(), [[0, 0], [0.2, 0.8]])
    assert texts(left) == ["8", "2", "5"] and texts(right) == ["1", "4"]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["cat", "dog"]
    assert "label" in left.get_ylabel() and "predicted" in left.get_xlabel()
    assert (left.get_title(), right.get_title()) == ("before unlearning", "after unlearning")
    assert is_png(figure)


def test_many_classes_have_no_numbers():
    figure = plot_confusions(np.eye(21, dtype=int), np.eye(21, dtype=int))
    assert texts(figure.axes[0]) == []
    assert texts(plot_confusions(np.eye(20, dtype=int), np.eye(20, dtype=int)).axes[0])


def test_confusions_must_match():
    with pytest.raises(InputError, match=r"\(2, 2\) and \(3, 3\)"):
        plot_confusions(np.eye(2), np.eye(3))
    with pytest.raises(InputError, match=r"\(2, 3\) and \(2, 3\)"):
        plot_confusions(np.eye(2, 3), np.eye(2, 3))
    with pytest.raises(InputError, match="1 class names; expected 2"):
        plot_confusions(np.eye(2), np.eye(2), ["cat"])


def test_histograms_are_drawn_as_they_are():
    data = histograms({"forget": [0.0, 1.0, 2.0], "test": [4.0]}, bins=4)
    figure = plot_histograms(data, "true-label probability")
    (axes,) = figure.axes
    outlines = [patch.get_data() for patch in axes.patches]
    assert len(outlines) == 4  # an area and its outline for each set
    for index, density in enumerate(data.densities.values()):
        for outline in outlines[2 * index : 2 * index + 2]:
            np.testing.assert_array_equal(outline.values, density)
            np.testing.assert_array_equal(outline.edges, data.edges)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["forget", "test"]
    assert axes.get_xlabel() == "true-label probability"
    assert is_png(figure)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 3)])
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_predictions_below_their_images(shape, kind):
    rng = np.random.default_rng(0)
    images = (rng.random((5, *shape)) * (255 if kind == np.uint8 else 1)).astype(kind)
    labels = np.array([0, 1, 2, 0, 1])
    predictions = {"before": labels, "after": np.array([1, 1, 0, 0, 2])}
    figure = plot_predictions(images, labels, predictions, ["cat", "dog", "owl"], columns=3)
    assert len(figure.axes) == 6
    for index, axes in enumerate(figure.axes[:5]):
        name = ["cat", "dog", "owl"][labels[index]]
        assert axes.get_title() == name
        after = ["cat", "dog", "owl"][predictions["after"][index]]
        assert texts(axes) == [f"before: {name}", f"after: {after}"]
        colours = [text.get_color() for text in axes.texts]
        assert colours == ["tab:green", "tab:green" if after == name else "tab:red"]
        np.testing.assert_array_equal(axes.images[0].get_array(), images[index].squeeze())
        if axes.images[0].get_array().ndim == 2:
            assert axes.images[0].get_clim() == (0, 255 if kind == np.uint8 else 1)
    assert not figure.axes[5].images
    assert is_png(figure)


@pytest.mark.parametrize(
    ("labels", "predictions", "names", "message"),
    [
        ([0, 1], {"after": [0, 1, 0]}, None, r"after: shape \(3,\) .* for 2 images"),
        ([0], {"after": [0, 1]}, None, r"labels: shape \(1,\)"),
        ([0, 1], {"after": [0, 2]}, ["cat", "dog"], "class 2 in the plot; expected 0 to 1"),
        ([0, 1], {"after": [0, -1]}, None, "class -1 in the plot"),
        ([0, 1], {"after": [0.0, 1.0]}, None, "after: .* type float64"),
    ],
)
def test_predictions_must_match(labels, predictions, names, message):
    with pytest.raises(InputError, match=message):
        plot_predictions(np.zeros((2, 4, 4)), labels, predictions, names)


def test_no_images_no_plot():
    with pytest.raises(InputError, match="at least one image"):
        plot_predictions(np.zeros((0, 4, 4)), [], {})


def test_the_trade_off_is_relative_to_the_retrained_model():
    methods = {
        "salun": [UnlearningScores(3.0, 99, 93, 10), UnlearningScores(5.0, 99, 95, 10)],
        "ft": [UnlearningScores(1.0, 99, 94, 10)],
    }
    retrained = [UnlearningScores(5.0, 100, 94, 12), UnlearningScores(7.0, 100, 96, 12)]
    figure = plot_trade_off(methods, retrained)
    (axes,) = figure.axes
    points = {}
    for container in axes.containers:
        line, _, bars = container
        spans = [np.ptp(bar.get_segments()[0], axis=0).max() / 2 for bar in bars]
        points[container.get_label()] = (*line.get_xydata()[0], spans)
    assert points["salun"] == (-2.0, 94.0, pytest.approx([2**0.5] * 2))
    assert points["ft"] == (-5.0, 94.0, [])
    assert points["retrained"] == (0.0, 95.0, pytest.approx([2**0.5] * 2))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*points]
    assert is_png(figure)


def test_a_method_without_scores():
    with pytest.raises(InputError, match="no scores of salun"):
        plot_trade_off({"salun": []}, [UnlearningScores(5.0, 100, 94, 12)])
    with pytest.raises(InputError, match="no scores of retrained"):
        plot_trade_off({}, [])


def test_no_figure_is_left_in_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot_confusions(np.eye(2), np.eye(2))
    assert pyplot.get_fignums() == before
