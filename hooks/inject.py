# SPDX-License-Identifier: Apache-2.0
"""What the wrapper runs, `inject.py BUNDLE HOOK_DIRECTORY`: tiny, as main.py is and for the same reason."""

import sys
from posix import _exit
from time import monotonic_ns, process_time_ns

began = monotonic_ns() - process_time_ns()
code = 1
try:
    sys.path.append(__file__.rsplit("/", 2)[0])
    from hooks.bundle import main

    main(sys.argv[1:], began)
    code = 0
finally:
    _exit(code)
