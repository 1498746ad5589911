"""Mounts of this machine as commands and daemons find them, and how they are taken down.

table       what is mounted where, as the kernel says
records     what daemons wrote down about themselves
health      whether a mount answers, asked from a process that can be left behind
asking      the program that asks it
survey      all mounts, and how each is: `wbfs status`
connection  the kernel's end of a mount: its settings, and its abortion
mountpoint  what may be mounted on, and unmounting
passed      a mount that somebody else makes, and passes the descriptor of
own         the daemon's own mount
paths       what a path below a mount is
closely     what a mount says of it: `wbfs why`
apart       what looks at mounts in a process that can be left behind
taking_down `wbfs umount`
"""
