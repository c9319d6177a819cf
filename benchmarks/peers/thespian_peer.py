"""Thespian: an actor that asks and an actor that counts, each in a process of its own, over TCP.

The asking side is an actor: a program outside sends and receives one message at a time. An actor is
a process there, so that there is one counter, and no fan-out.
"""

import time
from typing import NamedTuple

from thespian.actors import Actor, ActorAddress, ActorExitRequest, ActorSystem

from benchmarks.load import Load, percentiles
from benchmarks.peers import lines
from benchmarks.peers.program import Lines, free_port


class Task(NamedTuple):
    """Asks the asker to load the counter."""

    counter: ActorAddress
    in_flight: int
    seconds: float


class Add(NamedTuple):
    """Asks the counter to add; the answer has the same number."""

    number: int
    amount: int


class Value(NamedTuple):
    """What the counter then holds."""

    number: int
    value: int


class Counter(Actor):
    """An actor with one field."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:  # noqa: N802 - its name
        """Adds, and answers with the value."""
        if isinstance(message, Add):
            self.value += message.amount
            self.send(sender, Value(message.number, self.value))


class Asker(Actor):
    """Keeps asks under way for a while, then tells how it went."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[int, float] = {}
        self.times: list[float] = []

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:  # noqa: N802 - its name
        """Begins a task, or takes an answer and asks again."""
        now = time.perf_counter()
        if isinstance(message, Task):
            self.task, self.asked_by, self.start, self.number = message, sender, now, 0
            self.times.clear()
            for _ in range(message.in_flight):
                self.ask()
        elif isinstance(message, Value):
            self.times.append((now - self.begun.pop(message.number)) * 1000)
            if now < self.start + self.task.seconds:
                self.ask()
            elif not self.begun:
                rate = len(self.times) / (time.perf_counter() - self.start)
                self.send(self.asked_by, Load(rate, *percentiles(self.times)))

    def ask(self) -> None:
        """Sends one more."""
        self.number += 1
        self.begun[self.number] = time.perf_counter()
        self.send(self.task.counter, Add(self.number, 1))


def main() -> None:
    """Serves requests until the input ends."""
    told = Lines("thespian")
    system = ActorSystem("multiprocTCPBase", {"Admin Port": free_port()})
    try:
        asker, counter = system.createActor(Asker), system.createActor(Counter)
        told.ready()
        for word, numbers in told.requests():
            if word == "load":
                task = Task(counter, int(numbers[0]), numbers[1])
                found = system.ask(asker, task, 60 + 10 * task.seconds)
                told.say(lines.answer(word, *found) if found else "cannot answer within a minute")
            else:
                told.say("cannot hold thousands of actors: each is a process")
        for actor in (asker, counter):
            system.tell(actor, ActorExitRequest())
    finally:
        system.shutdown()


if __name__ == "__main__":
    main()
