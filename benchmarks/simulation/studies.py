"""All studies, and the sections of the report that they belong to."""

from benchmarks.simulation.checks import Study, given, rejected
from benchmarks.simulation.components import (
    judge_components,
    prepare_components,
    simulate_components,
)
from benchmarks.simulation.coverage import (
    judge_bootstrap,
    judge_normal,
    prepare_bootstrap,
    prepare_normal,
    simulate_bootstrap,
    simulate_normal,
)
from benchmarks.simulation.points import (
    judge_points,
    prepare_points,
    simulate_matched,
    simulate_points,
)
from benchmarks.simulation.population import OFFICIAL, POOLED, STRATIFIED
from benchmarks.simulation.power import judge_power, prepare_power, simulate_power
from benchmarks.simulation.seeds import (
    SPREADS,
    WEAKER_SEEDS,
    Seeds,
    judge_power_of_seeds,
    judge_runs_of_splits,
    judge_seeds,
    simulate_power_of_seeds,
    simulate_runs_of_splits,
    simulate_seeds,
)
from benchmarks.simulation.size import (
    judge_holm,
    judge_mcnemar,
    prepare_holm,
    prepare_mcnemar,
    simulate_contrast,
    simulate_holm,
    simulate_mcnemar,
    simulate_size,
    simulate_splits,
)
from benchmarks.simulation.standing import judge_best, prepare_best, simulate_best
from benchmarks.simulation.subgroups import judge_subgroups, simulate_subgroups

# How many validation images thresholds are chosen on: as in the official parts, and in the paper's.
CHOSEN_ON = ((150, OFFICIAL), (440, POOLED))

STUDIES: dict[str, Study] = {
    **{
        f"intervals, {design.name}": Study(
            "coverage", prepare_normal(design), simulate_normal, judge_normal
        )
        for design in (POOLED, OFFICIAL, STRATIFIED)
    },
    **{
        f"bootstrap, {design.name}": Study(
            "coverage", prepare_bootstrap(design), simulate_bootstrap, judge_bootstrap
        )
        for design in (POOLED, OFFICIAL)
    },
    **{
        f"paired tests, {design.name}": Study(
            "size", given(design), simulate_size, rejected(f"two equal networks, {design.name}")
        )
        for design in (POOLED, OFFICIAL)
    },
    "batch sizes": Study(
        "size", given(POOLED), simulate_contrast,
        rejected("two equal batch sizes over three networks, 550 images"),
    ),
    "splits": Study(
        "size", given(POOLED), simulate_splits,
        rejected("two equal networks over three splits of 2,750 images"),
    ),
    **{
        f"seeds, {scene.told}": Study("size", given(scene), simulate_seeds, judge_seeds)
        for scene in (
            *(Seeds(POOLED, spread) for spread in SPREADS),
            Seeds(POOLED, SPREADS[-1], correlated=0.5),
            Seeds(POOLED, SPREADS[-1], copied=True),
        )
    },
    "seeds in splits": Study(
        "size", given((POOLED, SPREADS[1])), simulate_runs_of_splits, judge_runs_of_splits
    ),
    **{
        f"McNemar, {design.name}": Study(
            "size", prepare_mcnemar(design), simulate_mcnemar, judge_mcnemar
        )
        for design in (POOLED, OFFICIAL)
    },
    **{
        f"matched specificity, {design.name}": Study(
            "size", given((design._replace(images=validation), design)), simulate_matched,
            rejected(f"two equal networks at a threshold, {design.name}"),
        )
        for validation, design in CHOSEN_ON
    },
    **{
        f"operating points, {design.name}": Study(
            "points", prepare_points(validation, design), simulate_points, judge_points
        )
        for validation, design in CHOSEN_ON
    },
    "Holm": Study("size", prepare_holm, simulate_holm, judge_holm),
    **{
        f"power, {design.name}": Study(
            "power", prepare_power(design), simulate_power, judge_power
        )
        for design in (POOLED, OFFICIAL)
    },
    **{
        f"power of seeds, spread {spread:g}": Study(
            "seeds", given(Seeds(POOLED, spread, (1.0, WEAKER_SEEDS))), simulate_power_of_seeds,
            judge_power_of_seeds,
        )
        for spread in SPREADS
    },
    **{
        f"components, spread {spread:g}": Study(
            "components", prepare_components(spread), simulate_components, judge_components
        )
        for spread in SPREADS[1:]
    },
    **{
        f"subgroups, {design.name}": Study(
            "subgroups", given(design), simulate_subgroups, judge_subgroups
        )
        for design in (POOLED, OFFICIAL)
    },
    "best": Study("best", prepare_best, simulate_best, judge_best),
}  # fmt: skip


# The sections with a figure of dots, and its axis.
FIGURES = {
    "coverage": "intervals that hold the true value (%)",
    "points": "intervals that hold the true value (%)",
    "components": "intervals that hold the true part (%)",
    "size": "tests that reject although nothing differs (%)",
    "subgroups": "tests that reject, and intervals that miss 0 (%)",
}


SECTIONS = {
    "coverage": (
        "Coverage of 95 % intervals",
        "The share of intervals that hold the true value: 93 to 97 % are required. Then the mean "
        "of the standard errors over the spread that the estimates truly have: 0.95 to 1.05. The "
        "shares of the classes vary by chance, as the intervals assume; a stratified test part, "
        "like those of the paper's protocol, has less chance in it, and its intervals for one "
        "network may only cover too often. Normal intervals are held to this where a comparison "
        "shows them, for differences; single networks are shown with bootstrap intervals (normal "
        "ones covered only 92.5 % for the keratosis AUC, with 77 keratoses).",
    ),
    "points": (
        "Operating points",
        "Thresholds on the melanoma score are chosen on a validation part and looked at on a test "
        "part; both are drawn anew. The share of 95 % intervals that hold the threshold that all "
        "images would choose, and its sensitivity and specificity on all: 93 to 98 % are required, "
        "as intervals of some dozens of melanomas are a little too long even where all else is "
        "ideal. Where fewer than 4 validation images are expected beyond the threshold (a "
        "sensitivity of 0.89 or 0.95 of 29 melanomas), and of Youden's point, intervals may cover "
        "more often.",
    ),
    "size": (
        "Size of the tests",
        "The share of tests at 5 % that reject although nothing differs: 3 to 7 % are required of "
        "the tests by normal approximation. An exact test of whole numbers cannot reach every "
        "level, so its size is held against its own theory, for McNemar's a sum over the binomial "
        "distribution. Equal configurations have seeds of their own, whose strength is spread as "
        "stated; the test is the one over seeds and images together, and from a winner a verdict "
        "asks the test over images besides, which makes it err less often. With one or two seeds "
        "there is no such test, and no winner. Holm's method must err "
        "anywhere in at most 5 %, give or take three Monte Carlo errors.",
    ),
    "power": (
        "Power",
        "The share of tests that find a true difference, against the normal theory with the true "
        "standard error: within 4 points. At the smallest detectable difference (hollow in the "
        "figure) it must be 80 %, within the same.",
    ),
    "seeds": (
        "Power over seeds",
        "How often a weaker configuration is found by runs with the same seeds: by the test over "
        "seeds and images together; by the one before it, which erred too often with three seeds "
        "(8.3 % of 4,000 draws, accuracy, spread 0.15); and by the sign-flip test over seeds "
        "alone, which says nothing of other images and finds nothing with fewer than six seeds. "
        "Reported, not judged.",
    ),
    "components": (
        "Where the chance comes from",
        "The share of 95 % intervals that hold the true part of the images, of the interaction of "
        "images and seeds, and of the seeds in the variance of one configuration's figure, by test "
        "parts with as many images of each class: 93 % or more are required of the images' and the "
        "seeds'. Those of the interaction are too short where few seeds differ much, and only "
        "reported. Then what three seeds foretell of the standard error of six, over the "
        "spread that means of six truly have: 0.9 to 1.1.",
    ),
    "subgroups": (
        "Groups of the test images",
        "Images are put into groups by chance (age, sex, hair), so that no group differs from the "
        "rest: 3 to 7 % of the tests at 5 % must reject, as many of the differences' intervals "
        "must miss 0, and after Holm's correction at most 5 % of the tables may show any "
        "difference, give or take three Monte Carlo errors. By the number of images that a figure "
        "rests on, in the group or beside it, whichever are fewer.",
    ),
    "best": (
        "Who is the best",
        "Nine networks, accuracy of 550 images, as in a comparison. Equal ones are each the best "
        "in 1/9 of the resamples on average, but the one that happens to lead seems far likelier: "
        "the probability is about these images, not proof. It must grow with the true lead, to 99 "
        "% for 0.10. The interval of a rank must hold the true rank (the shared one, 5, of equal "
        "networks) in 93 % or more.",
    ),
    "references": (
        "Independent references",
        "No simulation: the largest deviation over random tables, half of them full of ties, from "
        "other libraries or plain loops.",
    ),
}
