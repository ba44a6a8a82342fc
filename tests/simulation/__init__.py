"""Runs the product's own stages through thousands of small simulated worlds in which everything goes wrong.

    kernel.py      an event loop in virtual time; the seed chooses which ready callback runs; crashes by step number
    plan.py        what goes wrong in a world, and its sizes and times
    world.py       one world: its time, its random numbers, the lives of the process
    life.py        one life of the process: the product's application, wired to the world
    commands.py    the operator's commands
    schedule.py    when each command is given
    operator.py    calls the product's interface for commands; no other module does
    orders.py      the answers to commands, and the checks of what must hold from then on
    actions.py     what recorders, people and machines do meanwhile
    disk.py        the state folder's system calls, and what a power cut leaves of them
    folder.py      the watched folder: what people and recorders do there, and the product's port to it
    server.py      the VALT server, which may spoil or transcode what it gets
    receivers.py   what kind of server a world has, and what is known of it
    client.py      the product's client, connected to that server instead of sockets
    invariants.py  what must hold at every moment, and at the end
    spoilt.py      the same for records that arrived spoilt
    run.py         runs many seeds and crash points; ``python -m simulation`` replays one world
    tasks.py       what one process of a long run does
    mutants.py     faults put into the product on purpose, each of which must be found
    seeds.json     seeds that once found a fault; every run plays them again

It uses no real file, socket or clock, and only such threads as run one at a time.
"""
