"""How a machine ends itself when its lease is over: it destroys its own contract, with its own key.

The vendor gives each container its id and a key that may manage it, in the environment of its first
process [vastai SDK, serve_deployment.py; third parties' scripts]; ssh sessions do not inherit it, so it is
read there.
Never `shutdown`: a container that only stops goes on billing its disk.
"""

import shlex

_PROGRAM = """\
import os, time, urllib.error, urllib.request
env = dict(os.environ)
try:
    with open("/proc/1/environ", "rb") as file:
        for line in file.read().decode(errors="replace").split(chr(0)):
            name, _, value = line.partition("=")
            env.setdefault(name, value)
except OSError:
    pass
ref = env.get("CONTAINER_ID") or env.get("VAST_CONTAINERLABEL", "").replace("C.", "")
key = env.get("CONTAINER_API_KEY", "")
if not ref or not key:
    raise SystemExit("no CONTAINER_ID or CONTAINER_API_KEY: this machine can not end itself")
for left in reversed(range(5)):
    request = urllib.request.Request("@URL@/api/v0/instances/" + ref + "/", method="DELETE", data=b"{}")
    request.add_header("Authorization", "Bearer " + key)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30):
            raise SystemExit(0)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise SystemExit(0)
        said = "status %d" % error.code
    except OSError as error:
        said = str(error)
    if left:
        time.sleep(@PAUSE@)
raise SystemExit("not destroyed: " + said)
"""


def end_command(base_url: str, python: str, *, pause_s: float = 10) -> str:
    """A shell command that ends the machine it is run on; fails when the vendor does not take it.

    Args:
        pause_s: between tries; what is too frequent is refused.
    """
    program = _PROGRAM.replace("@URL@", base_url.rstrip("/")).replace("@PAUSE@", f"{pause_s:g}")
    return shlex.join((python, "-c", program))
