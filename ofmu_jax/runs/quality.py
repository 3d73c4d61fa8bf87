"""`ofmu forget-quality`: two evaluations, from whichever tool, held against each other."""

from ofmu_jax.evals import ForgetQuality, check_same_results, forget_quality, truth_ratios
from ofmu_jax.runs.config import ForgetQualityConfig
from ofmu_jax.runs.evaluate import read_results


def compare_results(config: ForgetQualityConfig) -> ForgetQuality:
    """Compares two evaluations as `ofmu forget-quality` does, and prints the result."""
    paths = (config.results, config.retain_results)
    results, retained = map(read_results, paths)
    check_same_results(results, retained, paths)
    quality = forget_quality(truth_ratios(results, paths[0]), truth_ratios(retained, paths[1]))
    below, above = ("none" if p is None else f"{p:.6g}" for p in quality.neighbours)
    print(
        f"forget quality p = {quality.p:.7g}\n"
        f"log10 p          = {quality.log10_p:.6f}\n"
        f"D                = {quality.statistic:.6f}\n"
        f"n                = {quality.n}\n"
        f"next p attainable: {below} below, {above} above"
    )
    return quality
