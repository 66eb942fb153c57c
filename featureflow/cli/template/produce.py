"""Send some minutes of payments to the scorer, which appends them to the log.

With Kafka, any producer will do: the record's value is this JSON, its key the user.
"""

import json
import random
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

given = sys.argv[1] if len(sys.argv) > 1 else "8080"
if not given.isdecimal() or not 0 < int(given) < 65_536:
    raise SystemExit(f"{given!r} is no port. Write the one that featureflow up names: python produce.py 8080")
PORT = int(given)
chance = random.Random(7)
now = datetime.now(UTC)

events: list[dict[str, str | float | bool]] = []
for number in range(2_000):
    user = f"u{chance.randrange(50)}"
    odd = user in ("u13", "u42")
    events.append(
        {
            "at": (now - timedelta(seconds=2_400) + timedelta(seconds=1.2 * number)).isoformat(),
            "user": user,
            "amount": round(chance.lognormvariate(5.5 if odd else 3.0, 0.6), 2),
            "declined": chance.random() < (0.3 if odd else 0.02),
        }
    )

sent = 0
for start in range(0, len(events), 1_000):  # at most 1,000 events in one request
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/events/payment",
        json.dumps(events[start : start + 1_000]).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            sent += len(json.load(answer)["positions"])
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{sent} payments are in the log, then: {error.read().decode()}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"nothing answers at port {PORT} ({error.reason}). Run: featureflow up") from None
print(f"{sent} payments are in the log")

with open("spine.csv", "w") as spine:  # the questions to train on: was this payment declined?
    spine.write("user,at,amount,label\n")
    for event in events[200:]:
        spine.write(f"{event['user']},{event['at']},{event['amount']},{int(event['declined'])}\n")
print("spine.csv holds what to train on: python train.py")
