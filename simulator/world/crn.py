"""Common random numbers: every draw of the world is a hash of its keys.

Knows integers and numpy only. A draw is keyed by (seed, purpose, user, day, session, item), never
taken from a stream and never keyed by a position, so results do not depend on the number of
workers or on order, and the same user who meets the same item in the same session reacts alike
under every ranker.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from simulator.world.arrays import Floats, compiled, elementwise


class Purpose(enum.IntEnum):
    """Purpose of a draw. The numbers are part of every world: never renumber, only append."""

    # The catalogue; keyed by item, author or topic.
    TOPIC_CENTER = 1
    AUTHOR = 2
    AUTHOR_TOPIC = 3
    AUTHOR_QUALITY = 4
    AUTHOR_STYLE = 5
    TOPIC_OF_AUTHOR = 6
    TOPIC_SECOND = 7
    TOPIC_MIX = 8
    LATENT = 9
    CONTENT = 10
    CATEGORY = 11
    DURATION = 12
    STYLE = 13
    QUALITY = 14
    POPULARITY = 15
    UPLOAD = 16
    STYLE_DIRECTION = 17
    TOPIC_DURATION = 18
    # Users before the warm-up; keyed by user.
    ACTIVITY = 30
    BIAS = 31
    TASTE = 32
    INTEREST_TOPIC = 33
    INTEREST_WEIGHT = 34
    INTEREST_AWAKE = 35
    HISTORY_LENGTH = 36
    # A day; keyed by user and day.
    DRIFT = 50
    DRIFT_KIND = 51
    DRIFT_TOPIC = 52
    ACTIVE = 53
    SESSIONS = 54
    SESSION_START = 55
    MOOD = 56
    # Retrieval and logging; keyed by user, day, session and round of the request.
    QUERY_NOISE = 70
    STRIPE = 71
    AUTHOR_CHANNEL = 72
    AUTHOR_ITEM = 73
    POPULAR_CHANNEL = 74
    FRESH_CHANNEL = 75
    EXPLORE = 76
    SAMPLE = 77
    RANDOM_SLOT = 78
    RANDOM_ITEM = 79
    CENTROID = 80
    # A meeting of user and item; keyed by user, day, session and item.
    WATCH = 90
    REPLAY = 91
    LIKE = 92
    COMMENT = 93
    FOLLOW = 94
    FORWARD = 95
    HATE = 96
    LEAVE = 97
    REFRESH = 98
    POLICY = 99


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


@compiled
def _mixed(x: np.uint64) -> np.uint64:
    """splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@elementwise("uint64(uint64)")
def _begin(bits: np.uint64) -> np.uint64:
    return _mixed(bits)


@elementwise("uint64(uint64, int64)")
def _fold(state: np.uint64, key: np.int64) -> np.uint64:
    """Mixes one more key into a state; wrapping is what a hash does."""
    return _mixed((state ^ np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))


@elementwise("float64(uint64)")
def _unit(bits: np.uint64) -> np.float64:
    """The upper 53 bits as a number in the open interval (0, 1)."""
    return (np.float64(bits >> np.uint64(11)) + 0.5) * 2.0**-53


def hash_keys(seed: int, purpose: Purpose, *keys: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Hashes a seed, a purpose and broadcastable integer keys into 64 bits each.

    Keys are folded in one at a time, so put the key that varies fastest last: what comes before
    is then mixed on small arrays.
    """
    state = _begin(np.full(1, (seed * _GOLDEN + int(purpose)) & _MASK, np.uint64))
    for key in keys:
        state = _fold(state, np.asarray(key).astype(np.int64, copy=False))
    return state


def uniform(seed: int, purpose: Purpose, *keys: npt.ArrayLike) -> Floats:
    """Uniforms in the open interval (0, 1), one for each combination of the keys."""
    return _unit(hash_keys(seed, purpose, *keys))


def normal(seed: int, purpose: Purpose, *keys: npt.ArrayLike) -> Floats:
    """Standard normals by inverse CDF, so that a draw stays monotone in its uniform."""
    return ndtri(uniform(seed, purpose, *keys))


def ndtri(p: Floats) -> Floats:
    """Quantiles of the standard normal (Acklam's rational approximation, error < 1.2e-9)."""
    p = np.asarray(p, np.float64)
    low, tail = p < 0.5, np.minimum(p, 1.0 - p)
    q = tail - 0.5
    r = q * q
    central = (
        (((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r
           + 1.383577518672690e2) * r - 3.066479806614716e1) * r + 2.506628277459239) * q
        / (((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r
             + 6.680131188771972e1) * r - 1.328068155288572e1) * r + 1.0)
    )  # fmt: skip
    s = np.sqrt(-2.0 * np.log(np.maximum(tail, 1e-300)))
    outer = (
        (((((-7.784894002430293e-3 * s - 3.223964580411365e-1) * s - 2.400758277161838) * s
           - 2.549732539343734) * s + 4.374664141464968) * s + 2.938163982698783)
        / ((((7.784695709041462e-3 * s + 3.224671290700398e-1) * s + 2.445134137142996) * s
            + 3.754408661907416) * s + 1.0)
    )  # fmt: skip
    below = np.where(tail < 0.02425, outer, central)
    return np.where(low, below, -below)


def ndtr(x: Floats) -> Floats:
    """CDF of the standard normal (Abramowitz and Stegun 7.1.26, error < 1.5e-7)."""
    z = np.abs(x) / np.sqrt(2.0)
    t = 1.0 / (1.0 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741
           + t * (-1.453152027 + t * 1.061405429))))  # fmt: skip
    upper = 0.5 * poly * np.exp(-z * z)
    return np.where(x < 0, upper, 1.0 - upper)


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-x))
