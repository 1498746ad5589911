"""The least that a loader's first batch takes: questions, the manifest, and files one by one.

Here nothing is mounted, kept, checked or fetched ahead; one process asks what a mount has to ask,
over the connection that one has since its start, and then fetches the files in turn, as the loader
reads them. It knows which these will be, and so asks once for their URLs. It is a process of its
own, `least_batch.py ENTITY PROJECT ARTIFACT VERSION SEED`, with the environment of a W&B client.
"""

from __future__ import annotations

import io
import json
import sys
import time

from benchmark.programs.loader import BATCH_FILES, shuffled
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.bytes import Location, open_stream
from wbfs.remote.http.transport import Deadline, Transport

LIMIT_S = 60.0
LARGEST_MANIFEST = 1 << 30


def main() -> None:
    """Fetch a batch; print how long it took, in seconds, and its bytes, as JSON."""
    entity, project, artifact, name, seed = sys.argv[1:]
    credentials = load_credentials()
    transport = Transport.for_credentials(credentials, checkpoint=lambda: None)
    api = WandbApi(transport=transport, credentials=credentials)
    deadline = Deadline.after(LIMIT_S)
    api.viewer(deadline=deadline)
    api.ask_features(deadline=deadline)
    began = time.perf_counter()
    version = api.version(entity, project, artifact, name, deadline=deadline)
    manifest = io.BytesIO()
    api.manifest(version, manifest, limit=LARGEST_MANIFEST, deadline=deadline)
    paths = sorted(json.loads(manifest.getvalue())["contents"])
    listed = time.perf_counter()
    chosen = [paths[index] for index in shuffled(len(paths), int(seed))[:BATCH_FILES]]
    urls = api.file_urls(version, chosen, deadline=deadline)
    size = 0
    for path in chosen:
        with open_stream(transport, Location(url=urls[path]), deadline=deadline) as stream:
            size += sum(map(len, stream.pieces))
    ended = time.perf_counter()
    figures = {"seconds": ended - began, "bytes": size, "count": len(chosen)}
    print(json.dumps({**figures, "list_s": listed - began}))


if __name__ == "__main__":
    main()
