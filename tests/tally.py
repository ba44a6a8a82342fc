"""What the tests of faults have done, and what it has cost: counted as they go, and told when a run has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from process import Site


class Tally(Counter[str]):
    """How often each thing has happened."""

    def weigh(self, site: Site, digests: Iterable[str]) -> None:
        """Hold what a server was sent against the sha256 of each file that was to arrive there, once."""
        records = [record for record in site.simulator.records() if record.sha256 is not None]
        sent, wanted = Counter(record.sha256 or "" for record in records), Counter(digests)
        taken = [(call.record, call.content_range) for call in site.simulator.calls if call.status == 201]
        self["files"] += wanted.total()
        self["bytes"] += sum(record.size for record in records)
        self["files lost"] += (wanted - sent).total()
        self["files twice"] += (sent - wanted).total()
        self["chunks twice"] += len(taken) - len(set(taken))

    @classmethod
    def sum_of(cls, properties: Iterable[Mapping[str, int]]) -> Tally:
        """Add up what the processes of a test run have counted."""
        total = cls()
        for one in properties:
            total.update(one)
        return total

    def __str__(self) -> str:
        return (
            f"{self['kills']:,} kills at named places, {self['kills in recovery']:,} of them in a recovery, and "
            f"{self['kills at random']:,} at random moments; {self['power cuts']:,} power cuts; "
            f"{self['disk refusals']:,} refused disk calls; {self['line faults']:,} line faults; "
            f"{self['bad states']:,} damaged or foreign states; {self['files']:,} files of {self['bytes']:,} bytes: "
            f"{self['files lost']:,} lost, {self['files twice']:,} files and {self['chunks twice']:,} chunks sent twice"
        )
