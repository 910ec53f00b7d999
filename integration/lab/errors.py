"""The lab's own failures, as opposed to what is measured in it."""


class LabError(Exception):
    """The lab cannot be built, or has failed; the text says why or what to do."""
