"""Failures of the harness, as opposed to those of the command it runs."""


class GuestError(Exception):
    """The guest could not be started or ended without a word; the text says what to do."""


class GuestTimeout(GuestError):
    """The command did not end in the time given to it; the guest was killed."""
