"""The initial weights of a network: what may be named, and what a name stands for."""

from skinml.base.errors import UserError, did_you_mean
from skinml.base.files import at_home
from skinml.base.provenance import file_digest


def check_weights(weights: str) -> None:
    """Check that `weights` is imagenet, none or a file that exists, else `UserError`."""
    if weights in ("imagenet", "none") or at_home(weights, "weights=").is_file():
        return
    raise UserError(
        f"weights={weights!r}: neither imagenet nor none, and no such file; expected one of these "
        "or the path of a Keras weights file (.weights.h5)"
        f"{did_you_mean(weights, ('imagenet', 'none'))}"
    )


def weights_kind(weights: str) -> str:
    """What the network started from, for tags and tables: imagenet, random or file."""
    return {"imagenet": "imagenet", "none": "random"}.get(weights, "file")


def weights_digest(weights: str) -> str:
    """Digest of a weights file's content; empty for imagenet and none, whose names say it all."""
    if weights in ("imagenet", "none"):
        return ""
    return file_digest(at_home(weights, "weights="))
