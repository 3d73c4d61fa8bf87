"""The limits that the figures are held against."""

from typing import Any

# Gradients that a program may cost.
GRADIENTS = {
    "grad Phi, exact": 7.0,
    "grad Phi, finite difference": 4.2,
    "outer penalty by trajectory, extra": 0.2,
    "ofmu, T = 5, fast": 21.0,
    "ofmu, T = 5, exact, trajectory": 37.0,
    "ofmu, T = 5, exact": 66.0,
}
# Temporaries that a step may need, in GradDiff's.
MEMORY = {"fast": 1.3, "exact, trajectory": 2.5, "exact": 2.5}
# How many times as fast as PyTorch a step is to be.
PEERS = {"grad_diff": 1.5, "npo": 1.5, "ofmu": 3.0}


def verdicts(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Every goal with the figure that was measured and whether it is reached."""

    def row(what: str, goal: float, figure: float | None, at_least: bool = False) -> dict[str, Any]:
        reached = None if figure is None else (figure >= goal if at_least else figure <= goal)
        return {"what": what, "goal": goal, "figure": figure, "reached": reached}

    found = []
    for name, goal in GRADIENTS.items():
        if results["main"] is not None and name in results["main"]["rows"]:
            cost = results["main"]["rows"][name]["g-e"]
            found.append(row(f"{name}: gradients", goal, cost and cost["median"]))
    for remat, kinds in (results["memory"] or {}).items():
        for mode, goal in MEMORY.items():
            what = f"{mode}, remat {remat}: temporaries of GradDiff"
            found.append(row(what, goal, kinds[mode]["ratio"]))
    for name, goal in PEERS.items():
        if results["peers"] is not None:
            figure = results["peers"]["rows"][name]["ratio"]["median"]
            found.append(row(f"{name}: times as fast as PyTorch", goal, figure, at_least=True))
    return found
