import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from serving.allocation import keep_freed

if sys.argv[1] == "kept":
    assert keep_freed()
bytes(bytearray(b"a") * 3_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    whole = bytearray(b"a") * 3_000_000
    copy = bytes(whole)
    del whole, copy
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is not glibc's")
def test_memory_that_a_request_freed_is_there_for_the_next() -> None:
    faults = {how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("kept", "returned")}
    assert faults["kept"] < faults["returned"] / 4
