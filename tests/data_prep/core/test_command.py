import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT, environment

from data_prep.core.command import entry_command
from data_prep.core.errors import ConfigurationError

NOT_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LAUNCHED = ["launch/sweep.py --settings", "launch/sweep.py --plan"]


def command(body: str) -> list[str]:
    """A small command of its own, whose main has this body."""
    program = (
        "import sys, os, time, signal\n"
        "from data_prep.core import command, telemetry\n"
        "from data_prep.core.errors import ConfigurationError\n"
        "@command.entry_command\n"
        "def main():\n"
        "    telemetry.configure()\n"
        f"    {body}\n"
        "    return 0\n"
        "sys.exit(main())\n"
    )
    return [sys.executable, "-c", program]


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=ROOT,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigurationError("two\n lines\x1b[2J of text"), "error: two lines\\x1b[2J of text\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: No space left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "set TMPDIR"),
        (OSError("[errno 28] Error writing bytes. Detail: [errno 28]"), "free space on that disk"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), "a.json: No"),
    ],
)
def test_an_error_a_user_can_fix_is_one_line_and_status_2(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @entry_command
    def main() -> int:
        raise error

    assert main() == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    @entry_command
    def main() -> int:
        raise OSError("no file, no number")

    with pytest.raises(OSError, match="no file"):
        main()


def assert_interrupted(body: str) -> None:
    """The command ends with one line and status 130, within half of its sleep."""
    done = subprocess.run(
        command(body),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; the same command continues from what is done\n"


def test_control_c_is_one_line_and_status_130() -> None:
    assert_interrupted("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")


def test_a_second_control_c_ends_a_command_without_its_teardown() -> None:
    body = (
        "\n    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    finally:\n"  # a teardown, such as Ray's
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "        finally:\n"
        "            print('torn down')"
    )
    assert_interrupted(body)


def test_a_command_leaves_the_handler_of_control_c_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert entry_command(lambda: 0)() == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_that_never_ends_does_not_keep_a_stopped_command(tmp_path: Path) -> None:
    body = (
        "import threading; command.END_SECONDS = 0.5; "
        "threading.Thread(target=time.sleep, args=(300,)).start(); "
        "signal.signal(signal.SIGTERM, command.terminate); "
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    done = subprocess.run(command(body), capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 143
    assert done.stderr == "stopped by SIGTERM; the same command continues from what is done\n"


@pytest.mark.parametrize("line", LAUNCHED)
def test_a_reader_that_leaves_ends_a_command_quietly(line: str) -> None:
    done = shell(f"python {line} | true")
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.parametrize("line", LAUNCHED)
@pytest.mark.parametrize("variables", [NOT_UTF8, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_that_is_not_utf8_shows_replacements(line: str, variables: dict) -> None:
    done = shell(f"python {line}", **variables)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-1000:]
    assert len(done.stdout) > 300 and done.stdout.isascii()


def test_a_locale_that_cannot_read_a_name_is_told_with_a_remedy_that_helps(tmp_path: Path) -> None:
    (tmp_path / "café.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    line = (
        "python -c 'from data_prep.core import storage, command; import sys; "
        "sys.exit(command.entry_command(lambda: print(len(storage.glob(sys.argv[1]))) or 0)())' "
        f"'{tmp_path}/*.jsonl'"
    )
    done = shell(line, **NOT_UTF8)
    assert done.returncode == 2 and "set PYTHONUTF8=1" in done.stderr
    done = shell(line, **NOT_UTF8 | {"PYTHONUTF8": "1"})
    assert (done.returncode, done.stdout) == (0, "1\n")


@pytest.mark.parametrize("line", [*LAUNCHED, "launch/sweep.py --help"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_standard_stream_is_no_error(line: str, closed: str) -> None:
    done = shell(f"python {line} {closed}")
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("line", LAUNCHED)
def test_output_on_a_full_disk_is_one_line(line: str) -> None:
    done = shell(f"python {line} > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device;")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("columns", ["1", "0", "abc"])
def test_a_tiny_terminal_still_shows_the_text(columns: str) -> None:
    done = shell(
        'script -qec "python launch/sweep.py --plan" /dev/null', COLUMNS=columns, TERM="dumb"
    )
    assert done.returncode == 0 and "MFU" in done.stdout


def test_a_log_line_that_nobody_can_read_does_not_stop_the_work() -> None:
    body = "telemetry.logger.warning('x' * 100_000); telemetry.logger.warning('y'); print('done')"
    program = " ".join(f"'{word}'" if " " not in word else '"$PROGRAM"' for word in command(body))
    done = shell(f"({program} 2>&1 >&3 | true) 3>&1", PROGRAM=command(body)[-1])
    assert done.stdout == "done\n", done.stderr
