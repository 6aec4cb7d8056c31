"""Vectors kept in FAISS: derived from the records, rebuildable, never trusted without a checksum.

| kind    | is                                                   | bytes a vector of D dimensions |
|---------|------------------------------------------------------|--------------------------------|
| exact   | every vector compared                                | 4 D                            |
| hnsw    | a graph of neighbours (1603.09320)                   | 4 D + 272                      |
| ivf     | 4-bit codes, the best of them compared anew          | 4 D + D / 2 + 12               |
| small   | the same, compared anew as 8 bits a number           | D + D / 2 + 12                 |
| gpu     | every vector compared by a GPU; filtered ones here   | 4 D, and as many there         |
| gpu-ivf | the best of lists compared by a GPU; filtered ones,  | 4 D, and as many there         |
|         | every one of them, here                              |                                |
"""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from ..columns import Column, Ids
from .codes import Codes, Subset, described, lists_for
from .gpu import CHUNK, MOST, Copy, gpus

log = logging.getLogger(__name__)
faiss: Any = untyped_faiss  # its stubs know neither numpy arguments nor search parameters

Vectors = NDArray[np.float32]

KINDS = ("exact", "hnsw", "ivf", "small", "gpu", "gpu-ivf")
EXHAUSTIVE_KINDS = ("exact", "gpu")  # which compare every vector
GPU_KINDS = ("gpu", "gpu-ivf")  # on a GPU; here they are as exact ones
CODED = ("ivf", "small")  # see `codes`
LEARNED = (*CODED, "gpu-ivf")  # from a sample of what they will hold
LEARNABLE = 1_000  # vectors, below which there is nothing to learn from
COMPARED_PER_MS = 5_000_000  # numbers that an exact scan gets through, about
# a search that takes no longer compares every vector: reading codes first gains nothing
EXACT_MS = 0.25
HNSW_LINKS, HNSW_BUILD = 32, 120
LISTS = "nprobe=32,k_factor_rf=32"
SEARCHED = {"hnsw": "efSearch=128", "ivf": LISTS, "small": LISTS, "gpu-ivf": "nprobe=32"}  # untuned
TUNED_FOR, RECALL = 10, 0.99  # hits, and how many of them tuning wants found
SAMPLE = 100_000  # vectors that lists are learned from, at most
# of the vectors, and vectors: a filter that leaves less is answered by a scan
SCAN_SHARE, SCAN_MOST = 0.3, 50_000
CODED_SCAN_MOST = 1_500  # vectors, the same where there are codes
FILTERED_DEPTH = 320  # vectors compared under a filter, at least, of the best by their codes
LEAST_PROBES = 8  # lists, whatever tuning finds: not all queries are like those that it asks
FILTERS_KEPT = 4
ROUGH_SHARE = 4  # of candidates, one in so many must be right
# vectors by which it is seen that the search of a graph under a filter stopped short
WITNESSES = 2048
ROUNDING = 1e-5  # of a score
WORN_SHARE = 0.2  # of its vectors removed, an index is made anew


class Found(NamedTuple):
    """The best for a query, best first: ids [n], scores [n]; by which way ("scan": every vector
    that may be found was compared; "codes", "lists" and "graph": some; "milvus": it does not say),
    how many vectors or their codes were compared, and whether nothing can have been missed.
    """

    ids: Ids
    scores: Vectors
    way: str = "scan"
    compared: int = 0
    exact: bool = True


NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32))


class VectorIndex(Protocol):
    """Unit vectors by id. Score is the inner product, higher is closer; ids ascend as they are
    added.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, ids: Ids, vectors: Vectors) -> None: ...

    def remove(self, ids: Ids) -> None:
        """Forget vectors; those that are not there already are forgotten."""
        ...

    def search(
        self,
        query: Vectors,
        k: int,
        allowed: Ids | None = None,
        exact: bool = False,
        rough: bool = False,
    ) -> Found:
        """The best of `allowed` (ascending; None: all) for a query [dim], at most k. `exact`: every
        vector compared. `rough` where they are candidates for another order, of which the last may
        be missed.
        """
        ...

    @property
    def stores_original_vectors(self) -> bool:
        """Whether it has the vectors at hand as they were given."""
        ...

    def vectors(self, ids: Ids) -> Vectors:
        """The vectors [n, dim] of ids that are there."""
        ...


class FaissIndex:
    """See VectorIndex. Removed vectors are hidden; `needs_compaction` says when they have become too many."""

    def __init__(self, dim: int, kind: str = "exact", expected: int = 0) -> None:
        self.kind, self.dim = kind, dim
        self._faiss: Any = faiss.index_factory(
            dim, factory(dim, kind, expected), faiss.METRIC_INNER_PRODUCT
        )
        if kind == "hnsw":
            self._faiss.hnsw.efConstruction = HNSW_BUILD
        self.tuned, self.tuned_at = SEARCHED.get(kind, ""), 0  # and with how many vectors
        self.tuned_by = ""  # which queries; its own vectors
        self._all, self._hidden = Column(np.empty(0, np.int64)), Column(np.empty(0, bool))
        self._count = 0
        self._there: Copy | None = None  # on the GPU
        self._one_there = threading.Lock()  # held while it is searched, or another takes its place
        self._raw_vectors: Vectors = np.empty((0, dim), np.float32)  # FAISS's own
        self._codes = self._read_codes()
        self._shown_last: dict[tuple[int, bool], Shown] = {}
        self._shown_of = 0, 0  # when there were so many places, and vectors

    def _read_codes(self) -> Codes | None:
        if self.kind not in CODED:
            return None
        return Codes(
            faiss.downcast_index(faiss.downcast_index(self._faiss).base_index), self._stored
        )

    @property
    def exact(self) -> bool:
        return self.kind in EXHAUSTIVE_KINDS

    @property
    def stores_original_vectors(self) -> bool:
        return self.kind != "small"

    def __len__(self) -> int:
        return self._count

    @property
    def _ids(self) -> Ids:
        return self._all.values

    @property
    def _gone(self) -> NDArray[np.bool_]:
        return self._hidden.values

    @property
    def needs_compaction(self) -> bool:
        return len(self._ids) - self._count > WORN_SHARE * max(len(self._ids), 1)

    @property
    def tuning_is_stale(self) -> bool:
        """Whether its parameters were found when it had less than half of what it has: they find
        less now.
        """
        return not self.exact and len(self._ids) > 2 * self.tuned_at

    @property
    def outdated(self) -> bool:
        """Whether its codes are older than today's, or too few lists hold what it has."""
        return self._codes is not None and self._codes.outdated

    @property
    def trained(self) -> bool:
        return bool(self._faiss.is_trained)

    def train(self, sample: Vectors) -> None:
        self._faiss.train(np.ascontiguousarray(sample, np.float32))

    def add(self, ids: Ids, vectors: Vectors) -> None:
        if len(ids):
            assert (np.diff(ids) > 0).all() and (not len(self._ids) or ids[0] > self._ids[-1])
            vectors = np.ascontiguousarray(vectors, np.float32)
            self._faiss.add(vectors)
            if self._codes is not None:
                self._codes.follow(vectors)
            self._all.append(ids)
            self._hidden.append(np.zeros(len(ids), bool))
            self._count += len(ids)

    def remove(self, ids: Ids) -> None:
        at = self._places(ids)
        at = at[~self._gone[at]]
        self._count -= len(np.unique(at))
        self._gone[at] = True
        if self._there is not None:
            self._there.hidden += int((at < self._there.upto).sum())

    def _places(self, ids: Ids) -> Ids:
        """Where in the index the ids are that it has."""
        at = np.searchsorted(self._ids, ids)
        inside = at < len(self._ids)
        at, ids = at[inside], ids[inside]
        return np.asarray(at[self._ids[at] == ids], np.int64)

    def search(
        self,
        query: Vectors,
        k: int,
        allowed: Ids | None = None,
        exact: bool = False,
        rough: bool = False,
    ) -> Found:
        if k <= 0 or len(self) == 0 or (allowed is not None and len(allowed) == 0):
            return NOTHING
        there = self.kind in GPU_KINDS and allowed is None and not exact and k <= MOST and gpus()
        if there and (answer := self._search_there(query, k)) is not None:
            return answer
        k, query = min(k, len(self)), np.ascontiguousarray(query, np.float32)
        scan = self._scans(allowed, exact)
        shown = self._shown(allowed, scan)
        if scan:
            return self._scan(query, k, shown)
        return (
            self._search_graph(query, k, shown, rough)
            if self._codes is None
            else self._search_codes(query, k, shown, rough)
        )

    def _search_graph(self, query: Vectors, k: int, shown: Shown | None, rough: bool) -> Found:
        """Where half may be found, the best lie twice as far: it looks at twice as many."""
        one_in = shown.one_in if shown else 1.0
        wide = int(one_in * max(self._tuned["efSearch"], k if rough else 2 * k))
        params = faiss.SearchParametersHNSW(sel=shown and shown.selector, efSearch=wide)
        near, found = self._faiss.search(query[None], k, params=params)
        if shown is not None and self._stopped_short(query, shown, near[0], found[0], rough):
            return self._scan(query, k, shown)
        count = int((found[0] >= 0).sum())
        return Found(
            self._ids[found[0, :count]],
            near[0, :count],
            "graph",
            min(wide * HNSW_LINKS, len(self)),
            False,
        )

    def _search_codes(self, query: Vectors, k: int, shown: Shown | None, rough: bool) -> Found:
        codes, subset = self._codes, shown.subset if shown else None
        assert codes is not None
        probes = max(
            int(self._tuned["nprobe"]),
            LEAST_PROBES,
            math.ceil(2 * k * codes.lists / len(self._ids)),
        )
        depth = self._depth(k, rough, shown is not None)
        read = codes.search(
            query, k, depth, probes, subset, lambda places: self._compared(query, places, k)
        )
        return Found(self._ids[read.places], read.scores, read.way, read.compared, False)

    def _scan(self, query: Vectors, k: int, shown: Shown | None) -> Found:
        """Every vector that may be found compared."""
        if shown is not None and self.kind == "small" and shown.size <= CODED_SCAN_MOST:
            at, scores = self._compared(query, shown.places, k)
        else:
            params = faiss.SearchParameters(sel=shown and shown.selector)
            near, found = self._raw_storage.search(query[None], k, params=params)
            at, scores = found[0, found[0] >= 0], near[0, found[0] >= 0]
        return Found(self._ids[at], scores, "scan", shown.size if shown else len(self))

    def _compared(self, query: Vectors, places: Ids, k: int) -> tuple[Ids, Vectors]:
        """The best k of places [n] by their stored vectors, best first, and their scores."""
        if not len(places):
            return places, np.empty(0, np.float32)
        if self.kind == "small":
            scores = self._stored(places) @ query
            best = np.argsort(-scores, kind="stable")[:k]
            return places[best], scores[best]
        params = faiss.SearchParameters(sel=faiss.IDSelectorArray(places))
        near, found = self._raw_storage.search(query[None], min(k, len(places)), params=params)
        return found[0], near[0]

    @property
    def _tuned(self) -> dict[str, float]:
        return {
            name: float(value)
            for name, value in (pair.split("=") for pair in self.tuned.split(","))
        }

    def _depth(self, k: int, rough: bool, filtered: bool) -> int:
        """How many of the best by their codes are compared anew for k: as many for the best one as
        for the best ten, and fewer for each the more are wanted.
        """
        most = self._tuned["k_factor_rf"] * TUNED_FOR
        if filtered:
            most = max(most, FILTERED_DEPTH)
        wanted = most * max(1.0, k / TUNED_FOR) ** 0.75
        return min(int(max(most, 4 * k) if rough else max(wanted, 2 * k)), len(self._ids))

    def _stopped_short(
        self, query: Vectors, shown: Shown, scores: Vectors, at: Ids, rough: bool
    ) -> bool:
        """Whether a search under a selector has stopped before it got to what may be found: it
        found less than there is, or of a sample of that some lie nearer than the last of what it
        found; of candidates, than the first fourth. A graph walks toward the query through
        everything; where the allowed lie elsewhere, it ends among what is not.
        """
        wanted = min(len(at), shown.size)
        if int((at >= 0).sum()) < wanted:
            return True
        last = -(-wanted // ROUGH_SHARE) if rough else wanted
        assert shown.witnesses is not None and shown.vectors is not None
        nearer = shown.witnesses[shown.vectors @ query > scores[last - 1] + ROUNDING]
        return bool(np.isin(nearer, at, invert=True).any())

    def _search_there(self, query: Vectors, k: int) -> Found | None:
        """By a GPU; None where it cannot, or fails: what it then has is not to be trusted."""
        with self._one_there:
            try:
                there = self._there = self._followed(self._there)
                if k + there.hidden > MOST:
                    return None
                probes = int(self.tuned.removeprefix("nprobe=")) if self.kind == "gpu-ivf" else None
                scores, at = there.search(query, k, probes)
            # FAISS's, of memory that is not there and of devices that are lost
            except RuntimeError as error:
                log.warning("a GPU could not be searched: %s", str(error).partition("\n")[0])
                self._there = None
                return None
        found = np.flatnonzero(~self._gone[at])[:k]
        whole = self.kind == "gpu"
        share = 1.0 if probes is None else min(1.0, probes / there.faiss.nlist)
        return Found(
            self._ids[at[found]],
            scores[found],
            "scan" if whole else "lists",
            int(share * len(self)),
            whole,
        )

    @property
    def too_many_deleted_for_gpu(self) -> bool:
        """Whether what has been removed is soon more than a GPU can leave out."""
        return self._there is not None and self._there.hidden > MOST // 2

    def copy_anew(self) -> None:
        """Have a GPU forget what has been removed; searches go on in what it has."""
        try:
            there = self._followed(None)
        except RuntimeError as error:
            log.warning("a GPU could not be filled anew: %s", str(error).partition("\n")[0])
            return
        with self._one_there:
            self._there = there

    def _followed(self, there: Copy | None) -> Copy:
        """A copy on the GPU with what was added since, or a new one; in as many lists as it was
        tuned for.
        """
        if there is None:
            shown, lists = np.flatnonzero(~self._gone), self.kind == "gpu-ivf"
            described = f"IVF{lists_for(self.tuned_at or len(shown))},Flat" if lists else "Flat"
            sample = np.random.default_rng(0).permutation(shown)[:SAMPLE] if lists else shown[:0]
            there = Copy(self.dim, described, self._stored(sample))
        added = there.upto + np.flatnonzero(~self._gone[there.upto :])
        for first in range(0, len(added), CHUNK):
            there.add(added[first : first + CHUNK], self._stored(added[first : first + CHUNK]))
        there.upto = len(self._ids)
        return there

    def _shown(self, allowed: Ids | None, scan: bool) -> Shown | None:
        """Which vectors may be found; None: all. People ask more than once with one filter, so the
        last are kept, until there are other vectors.
        """
        if allowed is None and len(self) == len(self._ids):
            return None
        if self._shown_of != (state := (len(self._ids), self._count)):
            self._shown_of, self._shown_last = state, {}
        asked = id(allowed), scan
        if asked not in self._shown_last:
            at = np.flatnonzero(~self._gone) if allowed is None else self._places(allowed)
            at = at[~self._gone[at]]
            while len(self._shown_last) >= FILTERS_KEPT:
                self._shown_last.pop(next(iter(self._shown_last)))
            self._shown_last[asked] = self._shown_at(at, allowed, scan)
        return self._shown_last[asked]

    def _shown_at(self, at: Ids, allowed: Ids | None, scan: bool) -> Shown:
        """What is needed to search among places `at`."""
        one_in = len(self._ids) / max(len(at), 1)
        if self._codes is not None and not scan:
            return Shown(at, allowed, one_in, subset=self._codes.subset(at))
        # a flat keeper goes through a list of places without looking at the others
        listed = (
            faiss.IDSelectorArray(at)
            if scan and self.kind != "small"
            else selector(at, len(self._ids))
        )
        if scan or not len(at):
            return Shown(at, allowed, one_in, listed)
        witnesses = np.random.default_rng(0).choice(at, WITNESSES)
        return Shown(at, allowed, one_in, listed, witnesses, self._stored(witnesses))

    def _scans(self, allowed: Ids | None, exact: bool) -> bool:
        """Whether a search compares every vector that may be found, from the start."""
        if exact or self.kind == "exact" or self.kind in GPU_KINDS:
            return True
        if self._codes is not None:
            return allowed is not None and len(allowed) <= CODED_SCAN_MOST
        # a graph compares some 30 n / allowed for each of efSearch
        most = max(SCAN_MOST, math.sqrt(30 * self._tuned["efSearch"] * len(self)))
        return few(allowed, len(self), most)

    @property
    def _raw_storage(self) -> Any:
        """The part that has every vector one by one, of FAISS's
        IndexFlat or IndexScalarQuantizer.
        """
        keeper = faiss.downcast_index(self._faiss)
        if self.kind in ("ivf", "small"):
            keeper = faiss.downcast_index(keeper.refine_index)
        return faiss.downcast_index(keeper.storage) if self.kind == "hnsw" else keeper

    def _stored(self, places: Ids) -> Vectors:
        if self.kind == "small":
            found: Vectors = self._raw_storage.reconstruct_batch(places)
            return found
        if len(self._raw_vectors) != len(self._ids):  # FAISS moves them when there are more
            keeper = self._raw_storage
            self._raw_vectors = faiss.rev_swig_ptr(
                keeper.get_xb(), int(keeper.ntotal) * self.dim
            ).reshape(-1, self.dim)
        return self._raw_vectors[places]

    def vectors(self, ids: Ids) -> Vectors:
        return self._stored(self._places(ids))

    def tune(
        self,
        queries: Vectors,
        latency_ms: float = math.inf,
        recall: float = RECALL,
        asked_by: str = "",
    ) -> None:
        """Find the quickest parameters that give these queries [n, dim] so much of their true ten;
        where none do within the latency, on one thread, the best that keep to it (FAISS's
        ParameterSpace). A GPU is timed by all queries at once, and its lists are made anew, for as
        many vectors as there are now.
        """
        self.tuned_at, self.tuned_by = len(self._ids), asked_by
        if self.exact or len(self) < 100 or (self.kind in GPU_KINDS and not gpus()):
            return
        if self._codes is not None and self._codes.lists == 1:  # nothing to choose
            return
        queries = np.ascontiguousarray(queries, np.float32)
        if self.kind not in GPU_KINDS:
            _, truth = self._raw_storage.search(queries, TUNED_FOR)
            tried = explored(
                faiss.ParameterSpace(), self._faiss, queries, truth, faiss.omp_get_max_threads()
            )
            if tried:
                self.tuned = chosen(tried, latency_ms, recall).key
            return
        shown = selector(np.flatnonzero(~self._gone), len(self._ids))
        _, truth = self._faiss.search(queries, TUNED_FOR, params=faiss.SearchParameters(sel=shown))
        try:
            there = self._followed(None)
            tried = explored(
                faiss.GpuParameterSpace(),
                there.faiss,
                queries,
                np.searchsorted(there.places, truth),
            )
        except RuntimeError as error:
            log.warning("a GPU could not be tuned: %s", str(error).partition("\n")[0])
            return
        with self._one_there:
            self._there = there
            if tried:
                self.tuned = chosen(tried, latency_ms, recall).key

    def save(self, path: Path) -> None:
        """Write two files, `path`.faiss and `path`.npz."""
        faiss.write_index(self._faiss, f"{path}.faiss")
        codes = self._codes.values if self._codes else np.empty((0, 0), np.uint8)
        np.savez(f"{path}.npz", ids=self._ids, gone=self._gone, codes=codes)

    @classmethod
    def load(
        cls, path: Path, dim: int, kind: str, tuned: str, tuned_at: int = 0, tuned_by: str = ""
    ) -> FaissIndex:
        """Read what `save` wrote. Only for files whose checksum has been compared: FAISS trusts
        what it reads.
        """
        index = cls(dim, kind)
        index._faiss = faiss.read_index(f"{path}.faiss")
        index._codes = index._read_codes()
        with np.load(f"{path}.npz", allow_pickle=False) as kept:
            index._all, index._hidden = Column(kept["ids"]), Column(kept["gone"])
            if index._codes is not None and index._codes.lists > 1:
                known = kept.get("codes")  # older snapshots have none
                every = np.arange(len(index._ids) if known is None else 0)
                index._codes.follow(index._stored(every), known)
        index._count = int((~index._gone).sum())
        index.tuned, index.tuned_at, index.tuned_by = tuned, tuned_at, tuned_by
        return index


def few(allowed: Ids | None, count: int, most: float = SCAN_MOST) -> bool:
    """Whether a filter leaves so few of the vectors that just those are compared."""
    return allowed is not None and len(allowed) < min(SCAN_SHARE * count, most)


class Shown(NamedTuple):
    """The places [size] of vectors that may be found, by which filter, and one in how many they
    are. For FAISS, a selector of them; for a graph some of them by chance [n], with their vectors
    [n, dim]; for codes what these need.
    """

    places: Ids
    allowed: Ids | None
    one_in: float
    selector: Any = None
    witnesses: Ids | None = None
    vectors: Vectors | None = None
    subset: Subset | None = None

    @property
    def size(self) -> int:
        return len(self.places)


class Tried(NamedTuple):
    """Search parameters, what they find of ten and how long they take."""

    recall: float
    ms: float
    key: str


def chosen(tried: list[Tried], latency_ms: float, recall: float) -> Tried:
    """The quickest that finds enough; where none does in time, the best that is in time, or the
    quickest of all.

    >>> tried = [Tried(0.9, 1.0, "low"), Tried(0.95, 2.0, "middle"), Tried(0.99, 4.0, "high")]
    >>> [chosen(tried, ms, recall).key for ms, recall in ((9, 0.94), (9, 1.0), (3, 0.98), (0.5, 0.98))]
    ['middle', 'high', 'middle', 'low']
    """
    within = [one for one in tried if one.ms <= latency_ms]
    enough = [one for one in within if one.recall >= recall]
    if enough or not within:
        return min(enough or tried, key=lambda one: one.ms)
    return max(within)


def explored(space: Any, index: Any, queries: Vectors, truth: Ids, threads: int = 1) -> list[Tried]:
    """What FAISS's search of parameters finds worth choosing from."""
    criterion = faiss.IntersectionCriterion(len(queries), TUNED_FOR)
    criterion.set_groundtruth(None, np.ascontiguousarray(truth, np.int64))
    space.verbose = 0
    space.initialize(index)
    points = space.explore(index, queries, criterion)
    tried = [points.optimal_pts.at(i) for i in range(points.optimal_pts.size())]
    return [
        Tried(one.perf, 1000 * threads * one.t / len(queries), one.key) for one in tried if one.key
    ]


def factory(dim: int, kind: str, expected: int) -> str:
    """FAISS's name for a kind of index that will hold about so many vectors."""
    if kind in CODED:
        return f"{described(dim, expected)},{'RFlat' if kind == 'ivf' else 'Refine(SQ8)'}"
    return f"HNSW{HNSW_LINKS},Flat" if kind == "hnsw" else "Flat"


def bytes_for(kind: str, dim: int) -> int:
    """Of one vector, as the table above has it."""
    codes = dim // 2 + 12
    return 4 * dim + {"hnsw": 272, "ivf": codes, "small": codes - 3 * dim}.get(kind, 0)


def selector(places: Ids, count: int) -> Any:
    """FAISS's, as bits, of those places among so many."""
    bits = np.zeros(count, bool)
    bits[places] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))


@dataclass(frozen=True)
class Sizing:
    """What a user says of the indexes: a kind, or "auto"; how much memory one may take (0: no
    limit), and how long one search of it.
    """

    kind: str = "auto"
    memory_mb: int = 0
    latency_ms: float = 2.0
    milvus: str = ""  # the address of a Milvus that keeps the vectors instead

    def kind_for(self, count: int, dim: int, now: str = "exact") -> str:
        """The kind for so many vectors: the simplest that is quick enough, within the memory. A
        kind that is no longer needed stays until half of what it was needed for is left.

        >>> [Sizing().kind_for(n, 256) for n in (1_000, 100_000, 3_000_000)], Sizing().kind_for(4_000, 256, "ivf")
        (['exact', 'ivf', 'ivf'], 'ivf')
        >>> Sizing(memory_mb=40).kind_for(100_000, 256), Sizing("exact").kind_for(100_000, 256)
        ('small', 'exact')
        """
        if self.kind != "auto":
            return self.kind if count >= LEARNABLE or self.kind not in LEARNED else "exact"
        lenient, most = 1 if now in EXHAUSTIVE_KINDS else 2, self.memory_mb * 1_000_000 or math.inf
        quick = count * lenient * dim <= min(self.latency_ms, EXACT_MS) * COMPARED_PER_MS
        if count < LEARNABLE or (quick and bytes_for("exact", dim) * count <= most):
            return "exact"
        return "ivf" if bytes_for("ivf", dim) * count <= most else "small"
