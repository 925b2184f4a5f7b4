"""An agent that only greets: what a conversation needs to be seen to begin and to be resumed."""

from providers.agent.attach import agent_sha

AGENT = rb"""
import hashlib, json, os, sys
directory = sys.argv[sys.argv.index("--dir") + 1]
boot = os.path.join(directory, "boot")
if not os.path.exists(boot):
    with open(boot, "w") as file:
        file.write(os.urandom(8).hex())
sha = hashlib.sha256(open(__file__, "rb").read()).hexdigest()[:16]
for line in sys.stdin:
    answers = []
    for message in json.loads(line):
        if message["t"] == "hello":
            answers.append({"t": "hello", "protocol": 1, "agent": sha, "boot": open(boot).read(),
                            "next_id": 1, "epoch": message["epoch"], "options": sys.argv})
        else:
            answers.append({"t": "refused", "id": 1, "command": message["t"], "reason": "fake",
                            "got": message})
    print(json.dumps(answers), flush=True)
"""
AGENT_SHA = agent_sha(AGENT)
