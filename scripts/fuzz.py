"""The fuzzer itself; scripts/fuzz sets up what it needs and calls it."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["wbfs.remote", "wbfs.store", "wbfs.model", "wbfs.fs"]):
    from hostile_manifests import GOOD_ROW, MD5, STRANGE_NAMES, STRANGE_VALUES, document, tree_of

MAX_BYTES = 4096
MAX_MEMORY_MB = 2048
SLOWEST_S = 20
FIELDS = (b"digest", b"size", b"ref", b"birthArtifactID", b"extra", b"alg", b"etag", b"versionID")
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-\w.]+|[][{},:]', re.DOTALL)
SHORT = [one for one in (*STRANGE_VALUES, *STRANGE_NAMES, GOOD_ROW) if len(one) < MAX_BYTES // 4]


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Put something strange in the place of a token, or leave it to the engine."""
    chance = random.Random(seed)
    tokens = list(TOKEN.finditer(data))
    if not tokens or chance.random() < 0.3:
        mutated: bytes = atheris.Mutate(data, max_size)
        return mutated
    token, other = chance.choice(tokens), chance.choice(tokens)
    new = chance.choice([*chance.choices(SHORT, k=4), other[0], b"", token[0] + b"," + token[0]])
    return (data[: token.start()] + new + data[token.end() :])[:max_size]


def write_seeds(folder: Path) -> None:
    """Write manifests to begin with: a good one, and each strangeness by itself."""
    good = (b'"good"', GOOD_ROW)
    seeds = [document([good, (b'"d/e"', GOOD_ROW)])]
    seeds += [document([good, (name, GOOD_ROW)]) for name in STRANGE_NAMES]
    for field in FIELDS:
        for value in STRANGE_VALUES:
            row = b'{"digest":%s,"%s":%s,"extra":{"%s":%s}}' % (MD5, field, value, field, value)
            seeds.append(document([good, (b'"d/e"', row)]))
    for number, seed in enumerate(seeds):
        if len(seed) <= MAX_BYTES:
            (folder / f"{number}").write_bytes(seed)


def main() -> None:
    """Fuzz in a folder for so many seconds; what fails ends the program and is put into another."""
    work, seconds, found = sys.argv[1:]
    corpus, table = Path(work, "corpus"), Path(work, "table")
    corpus.mkdir()
    write_seeds(corpus)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={MAX_MEMORY_MB}",
        f"-timeout={SLOWEST_S}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(corpus)],
        lambda data: tree_of(data, table),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
