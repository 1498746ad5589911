"""Which bytes to get, when and in what order.

A read comes down from `fs` to a `Reader` of `fetcher`. What the store has is read there and then.
The rest is fetched: a small file whole and checked before its first byte is served (`small`), a
large one in extents, and checked once all of them are here (`large`). What nobody waits for yet
is fetched ahead of those who read in some order (`ahead`), and what somebody has named is fetched
in bulk (`bulk`).

All of this runs in the trio thread and never blocks it:

- `background` is the one way to start work that nobody awaits at once; what fails in it fails
  whoever waits for it, and nothing else. `flights` are such work that many wait for.
- `offload` is the one door to threads. Each kind of work has its own, those that bring bytes once
  more for each server that they wait for, so that a silent one holds up its own readers only.
- `apart` is the one way to have something done by another process; what that fails to do in time
  is done here.
- `sources` knows where bytes come from, and is the one place to decide it; `transfer` brings them
  from there, over as many requests as it takes; `outage` knows whether the server can be had at
  all.

`wanted` is whose bytes are asked for; of files with the same content one is enough. `resources`
are what all of the above work with, `counters` what it came to, and `writeback` has the disk
follow.
"""
