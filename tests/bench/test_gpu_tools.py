"""What ``bench.gpu`` makes of the output of other programs, as they write it."""

import pytest

from bench import gpu_tools

COLUMNS = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",'
    '"Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
)


def ncu_line(launch: int, kernel: str, metric: str, unit: str, value: str) -> str:
    where = f'"{launch}","4242","python3.11","127.0.0.1","{kernel}","1","7"'
    grid = '"(128, 1, 1)","(20, 12, 1)","0","9.0"'
    return f'{where},{grid},"Command line profiler metrics","{metric}","{unit}","{value}"'


def ncu_log(*lines: str) -> str:
    return "\n".join(
        [
            "==PROF== Connected to process 4242 (/usr/bin/python3.11)",
            '==PROF== Profiling "_maps_kernel" - 0: Application replay pass 1',
            "==PROF== Disconnected from process 4242",
            COLUMNS,
            *lines,
        ]
    )


DENIED = """==PROF== Connected to process 87374 (/usr/bin/python3.11)
==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance \
Counters on the target device 0. For instructions on enabling permissions and to get more \
information see https://developer.nvidia.com/ERR_NVGPUCTRPERM
==PROF== Disconnected from process 87374
==WARNING== No kernels were profiled.
"""

MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 16 bytes
=========     at _maps_kernel+0x1b0 in triton_focus_head.py:90
=========     by thread (96,0,0) in block (2,1,0)
=========     Access to 0x79fd33fd0980 is out of bounds
=========     and is 129 bytes after the nearest allocation at 0x79fd33c00000 of size 20,580 bytes
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: main [0x8ae3] in python3.11
=========
========= Invalid __global__ read of size 16 bytes
=========     at _maps_kernel+0x1b0 in triton_focus_head.py:90
=========     by thread (97,0,0) in block (2,1,0)
=========
========= Target application returned an error
========= ERROR SUMMARY: 2 errors
"""

RACECHECK = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at _terms_kernel+0x140
=========     and Read access at _terms_kernel+0xe0 [4 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""

# What the tool of CUDA 12.9 writes on a machine without a GPU.
NO_DEVICE = """========= COMPUTE-SANITIZER
========= Error: Target application terminated before first instrumented API call
========= Error: couldn't find exit code.
"""


def test_junit_outcomes() -> None:
    found = gpu_tools.parse_junit(
        """<testsuites><testsuite>
        <testcase classname="tests.kernels.a" name="t[1]" time="0.1" />
        <testcase classname="tests.kernels.a" name="t[2]"><skipped message="no" /></testcase>
        <testcase classname="tests.kernels.a" name="t[3]">
          <failure message="AssertionError: dF:&#10; error 2">trace</failure></testcase>
        <testcase classname="tests.kernels.a" name="t[4]"><error>set up</error></testcase>
        <testcase time="0.000" />
        </testsuite></testsuites>"""
    )
    tests = [("passed", ""), ("skipped", "no"), ("failure", "AssertionError: dF: error 2")]
    tests.append(("error", "set up"))
    expected = [
        gpu_tools.Outcome(f"tests.kernels.a::t[{number}]", *test)
        for number, test in enumerate(tests, 1)
    ]
    assert found == expected


def test_ncu_csv_counts_whatever_groups_the_digits() -> None:
    read, written = gpu_tools.DRAM
    log = ncu_log(
        ncu_line(0, "_maps_kernel", read, "byte", "4,014,080"),
        ncu_line(0, "_maps_kernel", written, "byte", "0"),
        ncu_line(0, "_maps_kernel", gpu_tools.L2[0], "sector", "125.440"),
        ncu_line(1, "void at::copy<(int)4, f>(int, float*)", read, "Mbyte", "1,002.50"),
        ncu_line(1, "void at::copy<(int)4, f>(int, float*)", written, "", "n/a"),
    )
    assert gpu_tools.parse_ncu(log) == [
        {"kernel": "_maps_kernel", read: 4014080, written: 0, gpu_tools.L2[0]: 125440},
        {"kernel": "void at::copy<(int)4, f>(int, float*)", read: 1002500000},
    ]
    assert gpu_tools.parse_ncu("") == []
    assert gpu_tools.parse_ncu(DENIED) == []


def test_why_ncu_saw_nothing_is_one_line() -> None:
    denied = gpu_tools.ncu_obstacle(DENIED, 1)
    assert denied.startswith("ERR_NVGPUCTRPERM - The user does not have permission")
    assert "\n" not in denied
    nothing = gpu_tools.ncu_obstacle("==WARNING== No kernels were profiled.\n", 0)
    assert nothing == (
        "no kernel was profiled (exit code 0): ==WARNING== No kernels were profiled."
    )
    assert gpu_tools.ncu_obstacle("", 1) == "no kernel was profiled (exit code 1): no output"


@pytest.mark.parametrize(
    ("again", "where"), [("40,000", "L2"), ("2,000,000", "partly L2"), ("3,900,000", "DRAM")]
)
def test_traffic_says_where_the_second_read_of_the_features_went(again: str, where: str) -> None:
    read, written = gpu_tools.DRAM
    lines = []
    kernels = ("_maps_kernel", "_terms_kernel", "spin_kernel", "_gradient_kernel", "spin_kernel")
    reads = ("4,000,000", "400,000", "0", again, "0")
    writes = ("0", "0", "0", "3,600,000", "0")
    for number, (kernel, r, w) in enumerate(zip(kernels, reads, writes, strict=True)):
        lines.append(ncu_line(number, kernel, read, "byte", r))
        lines.append(ncu_line(number, kernel, written, "byte", w))
    lines.append(ncu_line(3, "_gradient_kernel", gpu_tools.L2[0], "sector", "125,000"))
    phases = gpu_tools.phases(gpu_tools.parse_ncu(ncu_log(*lines)))
    assert [[k["kernel"] for k in phase] for phase in phases] == [
        ["_maps_kernel", "_terms_kernel"],
        ["_gradient_kernel"],
    ]
    row = gpu_tools.traffic(*phases, features_bytes=4_000_000)
    assert row["forward"]["dram_read"] == 1.1
    assert row["forward"]["l2_read"] is None
    assert row["backward"]["dram_read"] == int(again.replace(",", "")) / 4_000_000
    assert row["backward"]["dram_written"] == 0.9
    assert row["backward"]["l2_read"] == 1.0
    assert row["second_read"] == where


def test_sanitizer_output() -> None:
    assert gpu_tools.parse_sanitizer(MEMCHECK) == {
        "errors": 2,
        "findings": {
            "Invalid __global__ read of size 16 bytes "
            "at _maps_kernel+0x1b0 in triton_focus_head.py:90": 2,
            "Target application returned an error": 1,
        },
    }
    race = gpu_tools.parse_sanitizer(RACECHECK)
    assert race["errors"] == 1
    (finding,) = race["findings"]
    assert finding.startswith("Error: Race reported between Write access at _terms_kernel+0x140")
    clean = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
    assert gpu_tools.parse_sanitizer(clean) == {"errors": 0, "findings": {}}
    assert gpu_tools.parse_sanitizer(NO_DEVICE)["errors"] is None
    assert gpu_tools.parse_sanitizer("")["errors"] is None


def test_nvidia_smi_line() -> None:
    line = "570.86.15, 1980 MHz, 2619 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31, Enabled, Default\n"
    found = gpu_tools.parse_smi(line)
    assert found["driver_version"] == "570.86.15"
    assert found["clocks.max.mem"] == "2619 MHz"
    assert found["compute_mode"] == "Default"
    assert gpu_tools.parse_smi("") == {"obstacle": "nvidia-smi said:"}
