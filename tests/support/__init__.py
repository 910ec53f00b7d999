"""What tests import: no test module is imported by another."""

from pkgutil import iter_modules

import pytest

# Otherwise a failed assertion of a helper would not show its values.
pytest.register_assert_rewrite(*(module.name for module in iter_modules(__path__, "tests.support.")))
