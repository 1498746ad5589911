"""wbfs beside its peers: how long each takes for the same files from the same servers.

`site` is what they read from, `contenders` how each reads, `programs` the processes that do,
`workloads` what is to be read, and `requirements` what wbfs must reach of it.
"""
