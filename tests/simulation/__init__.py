"""The product's own stages, run to the end of thousands of small worlds in which everything goes wrong.

    kernel.py      an event loop of virtual time; one ready handle per step, chosen by the seed; crashes by number
    plan.py        what is to go wrong in a world, and how small it is
    world.py       one world: its time, its dice, its lives, and everything below
    life.py        one life of the process: the product's house, wired to the world
    commands.py    the operator's commands
    schedule.py    when each is given
    operator.py    the product's interface for them; nothing else knows it
    orders.py      the answers to commands, and the checks of what must hold from then on
    actions.py     what recorders, people and machines do meanwhile
    disk.py        the state folder's system calls, with what a power cut leaves of them
    folder.py      the watched folder: what people and recorders do there, and the port to it
    server.py      the VALT server, five receivers, and what a bad link makes of a request
    client.py      the product's client over that server instead of sockets
    invariants.py  what must hold at every moment, and at the end
    run.py         seeds and crash points, many of them; ``python -m simulation`` replays one
    tasks.py       what one process of a long run does
    mutants.py     the product broken on purpose, each in a way that must be found
    seeds.json     seeds that have found something once: they are run again

Must never touch a real file, socket, clock or thread.
"""
