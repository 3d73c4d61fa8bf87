"""The rules on flat float64 vectors, by another road than the library's where there is one."""

import numpy as np


def pcgrad(r, f):
    projected = []
    for own, other in ((r, f), (f, r)):
        conflict = own @ other < 0
        projected.append(own - own @ other / (other @ other) * other if conflict else own)
    return sum(projected)


def projection(r, f):
    unit = r / np.linalg.norm(r)
    along = f @ unit
    return r + (f - along * unit if along < 0 else f)


def mgda(r, f):
    if r @ f >= r @ r:
        return r
    if r @ f >= f @ f:
        return f
    # The foot of the perpendicular from the origin on the line through both.
    line = (f - r) / np.linalg.norm(f - r)
    return r - (r @ line) * line


def ngdiff(r, f):
    return r / np.linalg.norm(r) + f / np.linalg.norm(f)


def munba(r, f):
    """The paper's weights of the two players."""
    cosine = r @ f / np.linalg.norm(r) / np.linalg.norm(f)
    bargain = np.sqrt((1 - cosine) / (1 - cosine**2))
    return bargain * r / np.linalg.norm(r) + bargain * f / np.linalg.norm(f)


def blur(r, f, gamma=1.0):
    """The nearest point to r of the plane <d, f> = gamma |f|^2."""
    return r + np.linalg.lstsq(f[None], np.array([gamma * f @ f - r @ f]), rcond=None)[0]


RULES = {
    "sum": lambda r, f: r + f,
    "pcgrad": pcgrad,
    "mgda": mgda,
    "projection": projection,
    "ngdiff": ngdiff,
    "munba": munba,
    "blur": blur,
}
