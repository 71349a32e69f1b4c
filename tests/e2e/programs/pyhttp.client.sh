. "$PROGRAMS/lib.sh"
wait_port
exec python3 - <<'PY'
import hashlib, os, threading, urllib.request

url = f"http://{os.environ['URLHOST']}:{os.environ['PORT']}"
want = hashlib.sha256(b"p" * 2000000).hexdigest()
bad = []

def fetch(count):
    for _ in range(count):
        with urllib.request.urlopen(url + "/file", timeout=20) as answer:
            got = hashlib.sha256(answer.read()).hexdigest()
        if got != want:
            bad.append(got)

threads = [threading.Thread(target=fetch, args=(5,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
try:
    urllib.request.urlopen(url + "/missing", timeout=10)
    bad.append("no 404")
except urllib.error.HTTPError as failure:
    if failure.code != 404:
        bad.append(failure)
print("FAIL" if bad else "20 files", bad)
raise SystemExit(1 if bad else 0)
PY
