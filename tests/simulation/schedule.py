"""When each command is given: as the plan says, or at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation import operator
from simulation.actions import ACTIONS
from simulation.commands import CHANGES, chosen, named
from simulation.disk import Folder
from simulation.folder import ROOT
from simulation.kernel import Dead, Loop
from simulation.life import Clock, Life
from simulation.orders import Order
from simulation.plan import BUDGET, NO_STEP
from uploader.domain import events
from uploader.domain.errors import StateUnusable, UploaderError
from uploader.store import Store

if TYPE_CHECKING:
    from simulation.world import World


class Schedule:
    """The commands of a world that are still to be given."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._planned = sorted(each for each in world.plan.commands if each[0])
        self._when_stopped = [each[1:] for each in world.plan.commands if not each[0]]
        self._left = 0  # commands that the dice choose
        self.at = NO_STEP  # the step at which the next one is given

    def begin(self) -> None:
        """Choose when the first command is given. Half of the stormy worlds get a third file, so that uploads queue."""
        world, workers = self._world, self._world.plan.workers
        world.disk.on_append = world.orders.look_at_ledger
        if world.plan.operator:
            workers = 1 + int(world.chance() * 2)
            self._left = 1 + int(world.chance() * 6)
            if world.chance() < 0.5:
                path, content = f"{ROOT}/a2.mp4", world.content(int(world.chance() * 20))
                world.paths.append(path)
                world.after(3.0 * world.chance(), lambda: world.folder.write(path, content))
        upload = world.config.upload.model_copy(update={"workers": workers})
        world.config = world.config.model_copy(update={"upload": upload})
        self._choose_step()

    def _choose_step(self) -> None:
        world = self._world
        if self._planned:
            self.at = self._planned[0][0]
        elif self._left > 0 and world.stormy:
            self.at = world.steps + 1 + int(10 ** (0.5 + 2.2 * world.chance()))
        else:
            self.at = NO_STEP

    def give(self, life: Life) -> None:
        """Give the due command to the running process."""
        world = self._world
        if self._planned:
            command, path = self._planned.pop(0)[1:]
        else:
            command, path = chosen(world)
            self._left -= 1
        self._choose_step()
        verb, about = named(world, command, path)
        if verb == "rename":
            ACTIONS["rename"](world, about)
        elif verb == "wake":
            life.operator.wake()
        else:
            life.command(verb, about)

    def while_stopped(self) -> None:
        """Give commands while no process runs."""
        world = self._world
        given, self._when_stopped = self._when_stopped, []
        while self._left > 0 and world.stormy and world.chance() < 0.3:
            given.append(chosen(world))
            self._left -= 1
        for command, path in given:
            verb, about = named(world, command, path)
            if verb == "reload":
                world.reconfigure(CHANGES[about])
            elif verb == "rename":
                ACTIONS["rename"](world, about)
            elif verb != "wake":
                self._give_to_state(verb, about)

    def _give_to_state(self, verb: str, about: str) -> None:
        """Give one command in a process of its own, which may be killed as well."""
        world = self._world
        world.kill_at = world.steps + 1 + int(60 * world.chance()) if world.plan.operator else NO_STEP
        world.kill_gently = False
        world.orders.born()
        world.spoilt.born()
        try:
            Loop(world, BUDGET).live(self._on_the_state(verb, about))
        except (Dead, StateUnusable):
            world.check_failure()
        finally:
            world.life += 1  # the next process has read nothing yet (I15)

    async def _on_the_state(self, verb: str, about: str) -> None:
        world, bus, clock = self._world, events.Bus(), Clock(self._world)
        bus.listen(world.heard.append)
        store = Store(Folder(world.disk), clock, bus)
        by_hand = operator.Stopped(world.config, store, clock, bus)
        order = world.orders.give(Order(verb, about, by_hand.at(about)))
        try:
            done = await getattr(by_hand, verb)(about)
        except UploaderError as error:
            world.orders.refused(order, error)
        else:
            world.orders.answered(order, done, by_hand.at(about), set())
        await store.close()
