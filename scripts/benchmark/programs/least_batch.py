"""The least that a loader's first batch takes: questions, the manifest, and files one by one.

Here nothing is mounted, kept, checked or fetched ahead; one process asks what a mount has to ask,
over the connection that one has since its start: for each name of the path, as the kernel looks
them up, and for the manifest. Then it fetches the files in turn, as the loader reads them. Which
these will be a mount can't know: from the first one's turn on a thread asks for all files' URLs, a
page at a time, and one whose URL is not there yet is asked for by itself. It is a process of its
own, `least_batch.py ENTITY PROJECT ARTIFACT VERSION SEED`, with the environment of a W&B client.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmark.programs.client import client, contents_of
from benchmark.programs.loader import BATCH_FILES, shuffled
from wbfs.remote.http.bytes import Location, open_stream

PAGE_FILES = 1000
"""As many as the server gives in a page. With two, four or ten pages at once it takes longer."""


def main() -> None:
    """Fetch a batch; print how long it took, in seconds, and its bytes, as JSON."""
    entity, project, artifact, name, seed = sys.argv[1:]
    api, transport, deadline = client()
    api.viewer(deadline=deadline)
    api.ask_features(deadline=deadline)
    began = time.perf_counter()
    api.project(entity, project, deadline=deadline)
    api.collection(entity, project, artifact, deadline=deadline)
    version = api.version(entity, project, artifact, name, deadline=deadline)
    paths = sorted(contents_of(api, version, deadline))
    listed = time.perf_counter()
    order = shuffled(len(paths), int(seed))[:BATCH_FILES]
    from_first = paths[order[0] :] + paths[: order[0]]
    urls: dict[str, str] = {}

    def ask_for(wanted: list[str]) -> None:
        urls.update(api.file_urls(version, wanted, deadline=deadline))

    size = 0
    with ThreadPoolExecutor(1) as asking:
        pages = [
            asking.submit(ask_for, from_first[at : at + PAGE_FILES])
            for at in range(0, len(paths), PAGE_FILES)
        ]
        for path in (paths[index] for index in order):
            if path not in urls:
                ask_for([path])
            with open_stream(transport, Location(url=urls[path]), deadline=deadline) as stream:
                size += sum(map(len, stream.pieces))
        ended = time.perf_counter()
        for page in pages:
            page.result()
    figures = {"seconds": ended - began, "bytes": size, "count": len(order)}
    print(json.dumps({**figures, "list_s": listed - began}))


if __name__ == "__main__":
    main()
