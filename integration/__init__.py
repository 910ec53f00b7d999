"""What needs a real kernel: the test guest, and whatever is shown or tested in it. Not part of the wheel."""
