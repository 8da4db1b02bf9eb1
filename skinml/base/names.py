"""Names that a person chose, as the names of metrics and models may be spelled."""

import re
import unicodedata

# MLflow's own limit is 250 letters; what stands around a class's name takes some.
LONGEST = 80


def identifier(text: str) -> str:
    """The one rule by which a free name becomes part of another: letters, digits and "_" alone.

    Letters and digits of every script stay; each run of anything else becomes one "_". So
    "seborrheic_keratosis" is its own, "Spitz naevus, atypical" becomes "Spitz_naevus_atypical".
    """
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", text)).strip("_")


def short_id(run_id: str) -> str:
    """A run as a table names it: the first eight letters of MLflow's ids, a folder's name as it is.

    Of a longer name the first 24 letters.
    """
    return run_id[:8] if re.fullmatch("[0-9a-f]{32}", run_id) else run_id[:24]
