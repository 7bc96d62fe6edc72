"""How many failed images a run may have."""

from captioner_core.errors import CheckFailed


def check_failures(failed: int, allowed: int | None) -> None:
    """Fails a run, after it is written, if more images failed than the user allows.

    Args:
      failed: The number of failed images.
      allowed: The value of ``--max-failures``; None allows any number.

    Raises:
      CheckFailed: There are more failures than allowed.
    """
    if allowed is not None and failed > allowed:
        raise CheckFailed(
            f"--max-failures {allowed}: {failed} images failed; the failures table says why"
        )
