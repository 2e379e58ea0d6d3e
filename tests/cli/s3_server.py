"""A real S3 server (moto) on 127.0.0.1 in a process of its own; its bucket `many` has thousands of keys.

    python tests/cli/s3_server.py KEYS

It prints its address, and ends when stdin is closed.
"""

import logging
import sys

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
for name in ("music", "many"):
    store.create_bucket(name, "us-east-1")
for number in range(int(sys.argv[1])):
    store.put_object("many", f"lib/{number // 1000:03}/{number:06}.wav", b"no audio")
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
server.stop()
