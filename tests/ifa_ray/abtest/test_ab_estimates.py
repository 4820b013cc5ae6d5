import numpy as np
import pytest
from scipy import stats

from ifa_ray.abtest.estimates import (
    Estimate,
    Totals,
    benjamini_hochberg,
    holm,
    log_lift,
    noise_split,
    over_replicates,
    paired_effect,
    pool,
)


def mean_of(values):
    values = np.asarray(values, np.float64)
    return Totals(numerator_U=values, denominator_U=np.ones_like(values))


def random_ratio(rng, users=50):
    return Totals(
        numerator_U=rng.gamma(2.0, 1.0, users),
        denominator_U=rng.integers(1, 9, users).astype(np.float64),
    )


def test_estimate_of_known_t_quantile():
    # The 97.5% point of t with 4 degrees of freedom is 2.776445 (any printed table).
    estimate = Estimate(log_lift=0.02776445, se=0.01, df=4)
    assert estimate.p_value == pytest.approx(0.05, abs=1e-7)
    assert estimate.interval(0.05) == pytest.approx((0.0, np.exp(0.0555289) - 1), abs=1e-7)
    assert estimate.acceptance_region(0.05) == pytest.approx(
        (np.exp(-0.02776445) - 1, np.exp(0.02776445) - 1), abs=1e-7
    )


def test_p_below_alpha_exactly_where_interval_excludes_zero_and_region_excludes_effect():
    rng = np.random.default_rng(0)
    significant = 0
    for _ in range(500):
        estimate = Estimate(
            log_lift=rng.normal(0, 0.03), se=rng.uniform(0.003, 0.03), df=rng.integers(2, 30)
        )
        alpha = rng.choice([0.01, 0.05, 0.2])
        low, high = estimate.interval(alpha)
        bottom, top = estimate.acceptance_region(alpha)
        rejects = estimate.p_value < alpha
        assert rejects == (low > 0 or high < 0)
        assert rejects == (not bottom <= estimate.relative <= top)
        significant += rejects
    assert 100 < significant < 400


def test_bitwise_equal_arms_have_no_effect_and_p_one():
    totals = random_ratio(np.random.default_rng(1))
    same = Totals(numerator_U=totals.numerator_U.copy(), denominator_U=totals.denominator_U.copy())
    estimate = paired_effect(totals, same)
    assert (estimate.log_lift, estimate.se, estimate.p_value) == (0.0, 0.0, 1.0)
    assert estimate.interval(0.05) == (0.0, 0.0)
    headline = over_replicates([0.0, 0.0, 0.0])
    assert (headline.se, headline.p_value) == (0.0, 1.0)


def test_swapping_arms_flips_the_log_lift_exactly():
    rng = np.random.default_rng(2)
    for _ in range(200):
        b, a = random_ratio(rng), random_ratio(rng)
        forward, backward = paired_effect(b, a), paired_effect(a, b)
        assert forward.log_lift == -backward.log_lift
        assert forward.se == backward.se
        assert forward.p_value == backward.p_value


def test_mean_by_hand():
    # Means 3 and 2; psi = (3/3 - 1/2, 3/3 - 2/2, 3/3 - 3/2) = (0.5, 0, -0.5), sd 0.5.
    estimate = paired_effect(mean_of([3, 3, 3]), mean_of([1, 2, 3]))
    assert estimate.log_lift == pytest.approx(np.log(1.5))
    assert estimate.se == pytest.approx(0.5 / 3**0.5)
    assert estimate.df == 2


def test_ratio_standard_error_is_the_numerical_influence_function():
    rng = np.random.default_rng(3)
    b, a = random_ratio(rng), random_ratio(rng)
    users, step = 50, 1e-6

    def lift(weights):
        above = np.log((weights * b.numerator_U).sum()) - np.log((weights * a.numerator_U).sum())
        below = np.log((weights * b.denominator_U).sum()) - np.log(
            (weights * a.denominator_U).sum()
        )
        return above - below

    slopes = np.array(
        [
            (lift(1 + step * (np.arange(users) == u)) - lift(1 - step * (np.arange(users) == u)))
            / (2 * step)
            for u in range(users)
        ]
    )
    expected = (users / (users - 1) * (slopes**2).sum()) ** 0.5
    assert paired_effect(b, a).se == pytest.approx(expected, rel=1e-6)


def test_nothing_counted_has_no_lift():
    assert log_lift(mean_of([0, 0]), mean_of([1, 2])) is None
    assert paired_effect(mean_of([1, 2]), mean_of([0, 0])) is None


@pytest.mark.parametrize("effect", [0.0, 0.02, 0.2])
def test_paired_interval_covers_the_truth_in_95_of_100_worlds(effect):
    rng = np.random.default_rng(4)
    worlds, users, covered = 1500, 200, 0
    # Heavy users are heavy in both arms; a tenth is absent; both arms have their own noise.
    taste = rng.gamma(1.5, 1.0, (worlds, users)) * (rng.random((worlds, users)) > 0.1)
    noise = rng.gamma(8.0, 1 / 8.0, (2, worlds, users))
    treatment, control = taste * noise[0] * (1 + effect), taste * noise[1]
    for b, a in zip(treatment, control, strict=True):
        low, high = paired_effect(mean_of(b), mean_of(a)).interval(0.05)
        covered += low <= effect <= high
    # Three standard errors of the share are 1.7 points.
    assert 0.933 <= covered / worlds <= 0.967


def test_headline_is_the_t_test_over_replicates():
    lifts = [0.011, 0.004, 0.019, -0.002, 0.008]
    headline = over_replicates(lifts)
    assert headline.p_value == pytest.approx(stats.ttest_1samp(lifts, 0).pvalue)
    assert headline.df == 4


def test_two_replicates_have_no_headline():
    assert over_replicates([0.01, 0.011]) is None
    assert noise_split([Estimate(log_lift=0.1, se=0.1, df=9)] * 2) is None


def test_pooled_effect_is_the_mean_with_the_users_noise_alone():
    estimates = [Estimate(log_lift=0.01, se=0.03, df=99), Estimate(log_lift=0.03, se=0.04, df=99)]
    pooled = pool(estimates)
    assert pooled.log_lift == pytest.approx(0.02)
    assert pooled.se == pytest.approx(0.025)  # sqrt(0.03^2 + 0.04^2) / 2
    # Welch: 0.0025^2 / ((0.0009^2 + 0.0016^2) / 99)
    assert pooled.df == pytest.approx(99 * 6.25e-6 / (0.81e-6 + 2.56e-6))


def test_noise_split_subtracts_the_users_part():
    # Lifts 0, 3, 6 (percent): variance 9; users' 5: checkpoints' 4.
    estimates = [Estimate(log_lift=x, se=5**0.5 / 100, df=99) for x in (0.0, 0.03, 0.06)]
    split = noise_split(estimates)
    assert split.total_sd == pytest.approx(0.03)
    assert split.user_sd == pytest.approx(5**0.5 / 100)
    assert split.checkpoint_sd == pytest.approx(0.02)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_benjamini_hochberg_against_scipy():
    rng = np.random.default_rng(5)
    for size in (1, 2, 7, 24):
        p = rng.random(size) ** 3
        ours = benjamini_hochberg(dict(enumerate(p)))
        expected = stats.false_discovery_control(p)
        assert [ours[i] for i in range(size)] == pytest.approx(expected)


def test_empty_families_are_no_error():
    assert holm({}) == {}
    assert benjamini_hochberg({}) == {}
