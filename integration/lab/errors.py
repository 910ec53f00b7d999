"""The lab's own failures, as opposed to what is measured in it."""


class LabError(Exception):
    """The lab cannot be built or has broken; the text says what to do or what went wrong."""
