"""The furniture of the README's tests, for the pages too."""

from tests.cli.conftest import shell as shell
from tests.cli.test_readme import files as files
from tests.cli.test_readme import furnished as furnished
