"""bottle on a machine whose KVM boots guests: this one again, emulated by the test and not by bottle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.support import nested
from tests.support.engines import Docker
from tests.vm.conftest import COMMAND

JOB = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/fast/home
export BOT_BOTTLE_CACHE_DIR=/fast/cache
unset DOCKER_HOST
mkdir /fast/home && cd /results
@bottle@ doctor --json > doctor.json
printf 'given' | @bottle@ run --time --cpus 1 -m 1g --archive image.tar -- sh -c \
  'cat; echo; id -u; pwd; uname -r; echo "$GREETING"; echo of-error >&2; exit 7' > out 2> err
echo $? > status
@bottle@ run -q --cpus 1 -m 1g --archive image.tar > own 2>> err
uname -r > kernel
@bottle@ run -q --cpus 1 -m 1g --name victim -e COLOUR=blue --archive image.tar -- \
  sh -c 'echo works; sleep 600' > victim 2> victim-err &
victim=$!
for second in $(seq 300); do
  ! grep -q works victim || break
  sleep 1
done
@python@ /results/ends.py > on-a-terminal 2>&1
wait $victim
echo $? > victim-status
ls /fast/cache/runs > left
find /fast/home /fast/cache/machines/smolvm/vms -mindepth 1 -maxdepth 1 ! -name '.*' > kept
ps -ef | grep -v grep | grep -c bottle- > running
"""

# another command in the same machine, on a terminal, when the machine's monitor is killed
ENDS = """
import subprocess, pexpect
script = "sh -c 'echo $COLOUR; tty; sleep 600'"
child = pexpect.spawn("@bottle@ exec victim -- " + script, encoding="utf-8", timeout=120)
child.expect("blue")
child.expect("/dev/pts/[0-9]+")
subprocess.run(["pkill", "-KILL", "-f", "_boot-vm"], check=True)
child.expect(pexpect.EOF)
child.close()
print(child.before, child.exitstatus)
"""


@pytest.mark.slow  # for three boots in two emulations; test_nested boots the same smolvm in one
@pytest.mark.timeout(1000)
def test_a_good_kvm_is_used(docker: Docker, image: str, shared_cache: Path, tmp_path: Path) -> None:
    results, fast = nested.provisions(docker, image, tmp_path)
    (results / "ends.py").write_text(ENDS.replace("@bottle@", str(COMMAND[0])))
    job = JOB.replace("@bottle@", str(COMMAND[0])).replace("@python@", sys.executable)
    console = nested.run(job, results, fast, timeout=900)
    told = {path.name: path.read_text() for path in results.iterdir() if path.name != "image.tar"}
    assert told.get("status") == "7\n", (told, console)
    given, user, folder, kernel, greeting = told["out"].splitlines()
    assert (given, user, folder, greeting) == ("given", "1000", "/home/agent", "two words")
    assert kernel != told["kernel"].strip()
    assert "of-error\n" in told["err"]
    assert "QEMU emulation" not in told["err"]
    stages = {line.split()[0] for line in told["err"].splitlines() if line.endswith(" s")}
    assert {"prepare", "network", "create", "start", "proof", "command", "total"} <= stages, told["err"]
    assert (told["victim"], told["victim-status"]) == ("works\n", "109\n"), told
    for said in (told["victim-err"], told["on-a-terminal"]):
        assert "bottle: the microVM ended before its command did" in said
        assert "killed for lack of memory" in said
    assert told["on-a-terminal"].endswith(" 109\n")
    assert told["own"].splitlines() == ["ran", "from cmd"], told["err"]
    checks = {check["name"]: check["mark"] for check in json.loads(told["doctor.json"])["checks"]}
    assert (checks["kvm"], checks["smolvm"]) == ("good", "good")
    assert told["left"].split() in ([], ["names"])
    # the unpacked artifact, for the next run; no machine, and nothing of it in the user's home
    assert told["kept"].splitlines() == ["/fast/cache/machines/smolvm/vms/_shared"]
    assert told["running"] == "0\n"
