"""The proof of a bottle's walls on KVM: quick, and no smolvm that drops an option gets past it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support import nested
from tests.support.engines import Docker
from tests.vm.conftest import COMMAND

# a smolvm that leaves out an option and its value, or puts in some, wherever a machine is made or started
FAKE = """\
#!/bin/bash
args=()
if [ "$1 $2" = "machine create" ] || [ "$1 $2" = "machine start" ]; then
  while [ $# -gt 0 ]; do
    if [ "$1" = "$DROPPED" ]; then shift 2; continue; fi
    if [ "$1" = -- ]; then args+=($ADDED); fi
    args+=("$1"); shift
  done
else
  args=("$@")
fi
exec /fast/cache/smolvm/@version@/smolvm "${args[@]}"
"""

JOB = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/fast/home
export BOT_BOTTLE_CACHE_DIR=/fast/cache BOT_BOTTLE_STATE_DIR=/fast/state
unset DOCKER_HOST
mkdir /fast/home && cd /results
for each in 192.31.196.10 192.31.196.20; do ip addr add $each/32 dev lo; done
run() { # NAME OPTIONS...
  name=$1; shift
  @bottle@ run --cpus 1 -m 512m --name "$name" --archive image.tar "$@" -- \
    sh -c 'echo started' > "$name.out" 2> "$name.err"
  echo $? > "$name.status"
  @bottle@ show --json "$name" > "$name.json"
}
run closed
run some --allow 192.31.196.10
@bottle@ run -d --cpus 1 -m 512m --name live --archive image.tar \
  --allow 192.31.196.10 -- sleep 1000 > live.out 2>&1
@bottle@ prove --json live > prove.json 2> prove.err
@bottle@ allow live 192.31.196.20 api.example.org > allow.out 2> allow.err
@bottle@ prove live > prove2.out 2>> prove.err; echo $? > prove2.status
for each in $(pgrep -f boot-vm); do grep -E '^(Seccomp|CapEff):' /proc/$each/status; done > monitor
@bottle@ stop -t 0 live > stop.out 2>&1
export BOT_BOTTLE_SMOLVM=/results/smolvm
export SMOLVM=/fast/cache/smolvm/@version@
sed -i "2i export SMOLVM_LIB_DIR=$SMOLVM SMOLVM_AGENT_ROOTFS_TAR=$SMOLVM/agent-rootfs.tar.zst" smolvm
ADDED=--net run added
DROPPED=--deny-cidr run undenied --allow 192.31.196.10
DROPPED=--egress-interceptor run alone --allow 192.31.196.10
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_walls_are_proved_on_kvm(docker: Docker, image: str, shared_cache: Path, tmp_path: Path) -> None:
    results, fast = nested.provisions(docker, image, tmp_path)
    version = next(path.name for path in (fast / "cache/smolvm").iterdir() if (path / "smolvm").is_file())
    (results / "smolvm").write_text(FAKE.replace("@version@", version))
    (results / "smolvm").chmod(0o755)
    job = JOB.replace("@bottle@", str(COMMAND[0])).replace("@version@", version)
    console = nested.run(job, results, fast, timeout=1100)
    told = {path.name: path.read_text() for path in results.iterdir() if path.suffix != ".tar"}
    for name in ("closed", "some"):
        assert (told.get(f"{name}.status"), told[f"{name}.out"]) == ("0\n", "started\n"), (told, console)
        assert all(found["ok"] for found in json.loads(told[f"{name}.json"])["proof"].values())
    assert json.loads(told["prove.json"])["control"]["outcome"] == "open", told
    assert told["allow.out"].splitlines() == ["192.31.196.10", "192.31.196.20", "api.example.org"], told
    assert told["prove2.status"] == "0\n", told
    assert "Seccomp:\t2" in told["monitor"], told
    assert "CapEff:\t0000000000000000" in told["monitor"]
    for name, bad in (("added", "routes"), ("undenied", "denied"), ("alone", "interceptor")):
        assert (told[f"{name}.status"], told[f"{name}.out"]) == ("119\n", ""), (told, console)
        receipt = json.loads(told[f"{name}.json"])
        assert (receipt["place"], receipt["proof"][bad]["ok"]) == ("kvm", False)


UNCONFINED = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/fast/home
export BOT_BOTTLE_CACHE_DIR=/fast/cache BOT_BOTTLE_STATE_DIR=/fast/state
unset DOCKER_HOST
mkdir /fast/home && cd /results
@bottle@ run -q --cpus 1 -m 512m --archive image.tar -- echo started > out 2> err
echo $? > status
@bottle@ doctor --json > doctor.json
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kernel_without_landlock_is_refused(
    docker: Docker, image: str, shared_cache: Path, tmp_path: Path
) -> None:
    results, fast = nested.provisions(docker, image, tmp_path)
    job = UNCONFINED.replace("@bottle@", str(COMMAND[0]))
    console = nested.run(job, results, fast, timeout=800, kernel="lsm=capability")
    told = {path.name: path.read_text() for path in results.iterdir() if path.suffix != ".tar"}
    assert (told.get("status"), told["out"]) == ("119\n", ""), (told, console)
    assert "no Landlock" in told["err"]
    checks = {check["name"]: check["mark"] for check in json.loads(told["doctor.json"])["checks"]}
    assert (checks["smolvm"], checks["kvm"]) == ("bad", "good")
