"""The console script `c10`: start the command line, or say what to install where there is only an aircraft's code."""

import gc
import sys
from typing import NoReturn

from tools.ground_packages import HINT, missing_ground_package


def main() -> NoReturn:
    """Run the command line, in a process that ends with it."""
    # Until the command is imported: modules live until the process ends, so that collections find nothing.
    gc.disable()
    try:
        from tools.cli import main as run  # noqa: PLC0415 - it imports packages that an aircraft lacks
    except ModuleNotFoundError as error:
        if (package := missing_ground_package(error)) is None:
            raise
        sys.exit(_refusal(package))
    except KeyboardInterrupt as interruption:
        from tools.error_report import report_error  # noqa: PLC0415 - as above

        sys.exit(report_error(interruption, shape={}, as_json="--json" in sys.argv))
    run()


def _refusal(package: str) -> int:
    sys.stderr.write(
        f"c10: error: expected the packages of the ground, which commands need, found no {package}: {HINT}\n"
    )
    return 2
