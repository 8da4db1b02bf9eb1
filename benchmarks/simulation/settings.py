"""What a report depends on."""

import math
from dataclasses import dataclass

DRAWS = 2000


SEED = 20170


# Truth is measured on this many images a draw: its error is then one that moves a coverage or a
# power by less than the Monte Carlo error does.
TRUTH_IMAGES = 500


# What power, seeds and contrasts are studied in: what a comparison gives a verdict by.
POWER_METRICS = ("accuracy", "auc_weighted")


@dataclass(frozen=True)
class Settings:
    """What a report depends on."""

    draws: int = DRAWS
    seed: int = SEED

    @property
    def truth_images(self) -> int:
        return TRUTH_IMAGES * self.draws

    @property
    def gap_images(self) -> int:
        """More images for the gap of two networks: all of its error moves a theoretical power.

        A power of 65 % by 0.9 points where the gap is measured on 1,000,000 images, beside a Monte
        Carlo error of 1.1 points; on four times as many by half of that.
        """
        return 4 * self.truth_images

    def slack(self, share: float, errors: float = 4.0) -> float:
        """How much wider a band is for fewer draws than `DRAWS`; 0 for as many or more."""
        spread = math.sqrt(share * (1 - share))
        return errors * spread * max(0.0, self.draws**-0.5 - DRAWS**-0.5)
