# SPDX-License-Identifier: Apache-2.0
"""The hook's entry, behind the stub: tiny, because a script is compiled anew at every run."""

import sys
from posix import _exit
from time import monotonic_ns, process_time_ns

began = monotonic_ns() - process_time_ns()
code = 1
try:
    sys.path.append(__file__.rsplit("/", 2)[0])
    from hooks.oci_hook import main

    main(sys.argv[1:], began)
    code = 0
finally:
    _exit(code)  # no destructors: the engine waits
