"""One time line for a file's sound and pictures, where clocks jump or single times are far off.

Joined broadcasts restart their clock, and recorders write single times that are hours away. A
`Clock` says what is added to the times of which packets, so that sound and pictures follow each
other as players show them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

JUMP_S = 10.0  # a longer step forwards is a jump of the clock (FFmpeg's dts_delta_threshold)
DOUBT_S = 8.0  # a longer step is a reason to ask all packets
BACK_S = 1.0  # so is a longer step backwards
BACK_DISCONTINUOUS_S = 0.1  # in formats whose clock may restart
ALIKE_S = 2.0  # two streams jump together if their jumps differ by less
RETURN_S = 1.0  # a time is far off alone if a following one is as near to what was expected
RETURN_PACKETS = 8  # how many of the following ones are asked
REORDER_MOST = 16  # so many pictures at most are decoded after one that is shown after them
HOLD_S = 60.0  # so long a picture that stays, or silence of a hole, gets windows
REST_S = 60.0  # pictures without sound may rest so long, without a jump of the clock


UNKNOWN = int(np.iinfo(np.int64).min)  # in place of a time that a packet does not have


class Times(NamedTuple):
    """Times of a packet, in units of its stream's time base. `order` counts the file's packets."""

    order: int
    pts: int | None
    dts: int | None


@dataclass(frozen=True, kw_only=True)
class Track:
    """The packets [n] of one stream, in the order of the file, which `order` counts. Times are in
    units of `base`, UNKNOWN where there is none. `shown` says which show a picture or give sound,
    `key` which are keyframes. `reorders` says whether pictures are shown in another order.
    """

    index: int
    base: Fraction
    order: NDArray[np.int64]
    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    duration: NDArray[np.int64]
    shown: NDArray[np.bool_]
    key: NDArray[np.bool_]
    corrupt: NDArray[np.bool_]
    pictures: bool = False
    reorders: bool = False

    def only_shown(self) -> Track:
        """Those packets that show a picture or give sound."""
        kept = self.shown
        if kept.all():
            return self
        return replace(
            self,
            order=self.order[kept],
            pts=self.pts[kept],
            dts=self.dts[kept],
            duration=self.duration[kept],
            shown=self.shown[kept],
            key=self.key[kept],
            corrupt=self.corrupt[kept],
        )

    @cached_property
    def packets(self) -> list[Times]:
        """Its packets one by one, which takes much memory."""
        rows = zip(self.order.tolist(), self.pts.tolist(), self.dts.tolist(), strict=True)
        return [Times(order, known(pts), known(dts)) for order, pts, dts in rows]

    @property
    def delays(self) -> NDArray[np.int64]:
        """From decoding to showing, of those packets that have both times."""
        both = (self.pts != UNKNOWN) & (self.dts != UNKNOWN)
        delays: NDArray[np.int64] = self.pts[both] - self.dts[both]
        return delays

    def told(self) -> NDArray[np.float64]:
        """When each is decoded, in seconds; where no packet tells that, when each is shown. NaN
        where it has no such time, and of those that are not shown: what an edit list cuts off has
        times that lie beside those of other packets.
        """
        ticks = self.dts if (self.dts != UNKNOWN).any() else self.pts
        unknown = (ticks == UNKNOWN) | ~self.shown
        return np.where(unknown, np.nan, ticks * float(self.base))

    def seconds(self) -> list[float | None]:
        """`told`, None for NaN."""
        return [None if np.isnan(t) else t for t in self.told().tolist()]

    def lengths(self) -> list[float]:
        """How long each lasts, in seconds, by its own length if that is likely, or else as most."""
        base = float(self.base)
        told = self.duration * base
        decoded = self.dts[self.dts != UNKNOWN]
        likely = told[told > 0] if (told > 0).any() else np.diff(decoded) * base
        usual = float(np.median(likely)) if len(likely) else 0.0
        most = JUMP_S if self.pictures else usual
        return [min(length, most) or usual for length in told.tolist()]

    def usual_delay(self) -> int:
        """From decoding to showing, as a rule, in units of the time base."""
        return round(float(np.median(self.delays))) if len(self.delays) else 0


def known(time: int) -> int | None:
    return None if time == UNKNOWN else time


@dataclass(frozen=True)
class Clock:
    """What is added to packets' times, by a stream's index.

    `steps` are (number of a packet in its stream, seconds added from it on), ascending. `single`
    are packets with other times, as (pts, dts) in units of the time base.
    """

    steps: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    single: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def times(
        self, index: int, number: int, base: Fraction, pts: int | None, dts: int | None
    ) -> tuple[int | None, int | None]:
        """The right pts and dts of a packet."""
        if (found := self.single.get(index, {}).get(number)) is not None:
            pts, dts = found
        steps = self.steps.get(index, ())
        at = bisect_right(steps, number, key=lambda step: step[0])
        added = round(steps[at - 1][1] / base) if at else 0
        return None if pts is None else pts + added, None if dts is None else dts + added

    def correct(self, track: Track) -> Track:
        """A stream's packets with their right times."""
        if track.index not in self.steps and track.index not in self.single:
            return track
        right = [
            self.times(track.index, number, track.base, packet.pts, packet.dts)
            for number, packet in enumerate(track.packets)
        ]
        pts = [UNKNOWN if pts is None else pts for pts, _ in right]
        dts = [UNKNOWN if dts is None else dts for _, dts in right]
        return replace(track, pts=np.array(pts, np.int64), dts=np.array(dts, np.int64))

    def set_times(self, packet: av.Packet[Any], number: int) -> None:
        """Give a packet its right times."""
        stream = packet.stream
        if stream.index in self.steps or stream.index in self.single:
            base = stream.time_base or Fraction(1)
            packet.pts, packet.dts = self.times(stream.index, number, base, packet.pts, packet.dts)


RIGHT = Clock()


def may_jump(track: Track, back_s: float) -> bool:
    """Whether some time of a stream is far from its neighbours'."""
    seconds = track.told()
    steps = np.diff(seconds[~np.isnan(seconds)])
    if len(steps) and (steps.min() < -back_s or steps.max() > DOUBT_S):
        return True
    delays = track.delays
    return bool(len(delays)) and float(np.ptp(delays)) * float(track.base) > JUMP_S


class Jump(NamedTuple):
    """Packet `number` of a stream comes at `at_s` where it was expected at `expected_s`."""

    number: int
    order: int
    expected_s: float
    at_s: float

    @property
    def step_s(self) -> float:
        return self.at_s - self.expected_s


def compute_clock(tracks: Sequence[Track], restarts: bool, limit_s: float) -> Clock:
    """The clock of one or two streams that lie in one file.

    Where all streams jump back together, what follows is joined to what was before. So it is where
    they jump forward by more than JUMP_S, if the format's clock may restart (`restarts`) or the
    times would go beyond `limit_s`. Another step forward is a hole. A single time that is far off
    is corrected.
    """
    tracks = [track for track in tracks if len(track.order)]
    clock = Clock()
    back_s = BACK_DISCONTINUOUS_S if restarts else BACK_S
    found: list[tuple[Track, list[Jump]]] = []
    reach: list[float] = []
    for track in tracks:
        fix_far_pts(track, clock)
        jumps, single = find_jumps(track, back_s)
        correct_single(track, clock, single)
        found.append((track, jumps))
        kept = [t for i, t in enumerate(track.seconds()) if t is not None and i not in single]
        reach += [min(kept), max(kept)] if kept else []
    restarts = restarts or bool(reach and max(reach) - min(reach) > limit_s)
    joined: set[tuple[int, int]] = set()
    every = [(jump, track) for track, jumps in found for jump in jumps]
    every.sort(key=lambda pair: pair[0].order)
    for jump, track in every:
        if (track.index, jump.number) in joined:
            continue
        others = [(other, jumps) for other, jumps in found if other is not track]
        if jump.step_s > 0:
            rests = track.pictures and not others and jump.step_s <= REST_S
            if not restarts or rests or any(is_covered(jump, other) for other, _ in others):
                continue
        add_step(clock, track.index, jump.number, -jump.step_s)
        for other, jumps in others:
            number = find_same_jump(jump, other, jumps)
            if number is not None:
                joined.add((other.index, number))
                add_step(clock, other.index, number, -jump.step_s)
    return clock


def find_jumps(track: Track, back_s: float) -> tuple[list[Jump], dict[int, float]]:
    """Where a stream's clock jumps, and the right seconds of single packets that are far off."""
    jumps: list[Jump] = []
    single: dict[int, float] = {}
    seconds = track.seconds()
    expected: float | None = None
    last_s = 0.0
    for i, (at_s, lasts_s) in enumerate(zip(seconds, track.lengths(), strict=True)):
        if at_s is None:
            continue
        if expected is not None:
            step = at_s - expected
            # pictures may follow each other sooner than most do
            back = (at_s - last_s if track.pictures else step) < -back_s
            if (back or step > RETURN_S) and returns(seconds, i, expected):
                single[i] = expected
                at_s = expected
            elif back or step > JUMP_S:
                jumps.append(Jump(i, track.packets[i].order, expected, at_s))
        last_s = at_s
        expected = at_s + lasts_s
    return jumps, single


def returns(seconds: Sequence[float | None], at: int, expected: float) -> bool:
    """Whether soon after the packet `at`, which is far off, a packet steps back to where it should
    be.
    """
    known = [t for t in seconds[at : at + 1 + RETURN_PACKETS] if t is not None]
    step = known[0] - expected
    for before, after in pairwise(known):
        back = before - after
        if back * step > 0 and abs(back - step) < max(RETURN_S, abs(step) / 4):
            return True
    return False


def is_covered(jump: Jump, other: Track) -> bool:
    """Whether another stream goes on while this one jumps forward."""
    low = jump.expected_s + ALIKE_S
    high = jump.at_s - ALIKE_S
    return any(t is not None and low < t < high for t in other.seconds())


def find_same_jump(jump: Jump, other: Track, jumps: Sequence[Jump]) -> int | None:
    """The packet of another stream from which on it has the same new clock; None if it keeps to the
    old one.
    """
    for same in jumps:
        near = abs(same.expected_s - jump.expected_s) < JUMP_S
        if near and abs(same.step_s - jump.step_s) < ALIKE_S:
            return same.number
    number = bisect_left(other.packets, jump.order, key=lambda packet: packet.order)
    if number == len(other.packets) or (at_s := other.seconds()[number]) is None:
        return None
    old = abs(at_s - jump.expected_s) < abs(at_s - jump.at_s)
    return None if old else number


def add_step(clock: Clock, index: int, number: int, seconds: float) -> None:
    steps = clock.steps.setdefault(index, [])
    steps.append((number, seconds + (steps[-1][1] if steps else 0.0)))


def fix_far_pts(track: Track, clock: Clock) -> None:
    """Correct single pictures that are shown long before or after they are decoded.

    More than REORDER_MOST pictures that are decoded after such a one are shown before it, or the
    other way round.
    """
    if not track.pictures:
        return
    usual = track.usual_delay()
    base = float(track.base)
    most = REORDER_MOST if track.reorders else 0
    shown = [packet.pts for packet in track.packets if packet.pts is not None]
    at = 0
    for i, packet in enumerate(track.packets):
        pts = packet.pts
        if pts is None:
            continue
        at += 1
        if packet.dts is None or abs(pts - packet.dts - usual) * base <= JUMP_S:
            continue
        overtaken = sum(later < pts for later in islice(shown, at, at + 2 * REORDER_MOST))
        overtakes = sum(
            sooner > pts for sooner in islice(shown, max(at - 1 - 2 * REORDER_MOST, 0), at - 1)
        )
        if max(overtaken, overtakes) > most:
            clock.single.setdefault(track.index, {})[i] = (packet.dts + usual, packet.dts)


def correct_single(track: Track, clock: Clock, single: dict[int, float]) -> None:
    usual = track.usual_delay()
    for i, seconds in single.items():
        dts = round(seconds / track.base)
        clock.single.setdefault(track.index, {})[i] = (dts + usual, dts)
