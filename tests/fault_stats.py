"""Counts what the tests of faults did and what was lost or sent twice; the totals are printed when a run ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from process import Site


class FaultStats(Counter[str]):
    """How often each kind of thing happened."""

    def count_arrivals(self, site: Site, digests: Iterable[str]) -> None:
        """Compare what the server holds with *digests*: the sha256 of each file, each of which must arrive once."""
        records = [record for record in site.simulator.records() if record.sha256 is not None]
        sent, wanted = Counter(record.sha256 or "" for record in records), Counter(digests)
        taken = [(call.record, call.content_range) for call in site.simulator.calls if call.status == 201]
        self["files"] += wanted.total()
        self["bytes"] += sum(record.size for record in records)
        self["files lost"] += (wanted - sent).total()
        self["files twice"] += (sent - wanted).total()
        self["chunks twice"] += len(taken) - len(set(taken))

    @classmethod
    def sum_of(cls, properties: Iterable[Mapping[str, int]]) -> FaultStats:
        """Add up the counts of all processes of a test run."""
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
