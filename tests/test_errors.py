"""What clients are told of each error: its status, its code and its detail."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import evaluation
import export
import index
import media
import service
from export.bundle import (
    AlteredFile,
    BadBundle,
    InTheWay,
    MissingFile,
    NoRoute,
    UnknownFormat,
    WrongVectors,
)
from export.cells import NoCells
from export.encoder import BadVectors, CannotRun, EncoderError, UnverifiedPrecision, WrongPrecision
from export.fusion import BadWeights
from index.backup import BadBackup
from index.collection import (
    BadName,
    CollectionError,
    CollectionExists,
    CollectionUnusable,
    DataInUse,
    DataUnusable,
    FingerprintConflict,
    ItemExists,
    NoPreview,
    NoVectors,
    RecordsLost,
    UnknownCollection,
)
from index.ingest.ray_build import NoRay
from index.ingest.reembed import NotReady
from index.ingest.remote import CannotImport, NoAnswer
from index.ingest.watch import CannotWatch
from index.learning import NotLearned
from index.records.filters import BadFilter
from index.records.item import NoMedia, UnknownItem
from index.records.marks import UnknownMark
from index.records.schema import UnknownSchema
from index.vectors.store import VectorStoreFailed
from index.vocabulary import BadVocabulary
from media.errors import (
    BadConfig,
    BadMedia,
    BadStretch,
    BadText,
    BeyondBudget,
    Damaged,
    DecoderFailed,
    DecodersClosed,
    MissingModality,
    NotMedia,
    TooLong,
)
from media.manifest import BadManifest, BadMetadata, DuplicateKey
from media.readers import ReaderMissing
from service.error_responses import BodyProblem, error_body, status_and_code
from service.exceptions import (
    BadHost,
    BadKey,
    BadLink,
    BadRange,
    BadRequest,
    BodyTooLarge,
    CannotReload,
    CrossOrigin,
    DiskFull,
    Forbidden,
    LimitedKey,
    Overloaded,
    OverQuota,
    PackedBody,
    ServiceError,
    ShuttingDown,
    SlowBody,
    TimedOut,
    UnknownModel,
)
from service.jobs import JobError, NoImports, TooManyJobs, UnknownJob, UnknownPath
from service.keys import BadKeyFile, BadKeyName, KeyExists, KeyProblem, UnknownKey

from .makers import ROOT

# an error, its status and code, and its detail as JSON, to the byte
ANSWERS = [
    (BadMedia("x"), 422, "bad_media", "{}"),
    (NotMedia("no header"), 415, "not_media", '{"reason": "no header"}'),
    (Damaged("no frame"), 422, "damaged", '{"reason": "no frame"}'),
    (MissingModality("audio"), 422, "missing_modality", '{"modality": "audio"}'),
    (
        BeyondBudget("frames", 12.0, 8),
        413,
        "too_large",
        '{"what": "frames", "amount": 12.0, "limit": 8}',
    ),
    (TooLong(312, 60.5), 413, "too_long", '{"limit": 60.5, "seconds": 312}'),
    (DecoderFailed("it died"), 422, "decoder_failed", '{"reason": "it died"}'),
    (DecodersClosed(), 503, "shutting_down", '{"reason": "the decoders are closed"}'),
    (
        BadStretch(2.0, 9.0, 4.0),
        400,
        "bad_stretch",
        '{"start_s": 2.0, "end_s": 9.0, "duration_s": 4.0}',
    ),
    (BadText("it is empty"), 400, "bad_text", '{"reason": "it is empty"}'),
    (BadText("it is empty", 0), 400, "bad_text", '{"reason": "it is empty", "index": 0}'),
    (BadConfig("key"), 500, "bad_config", "{}"),
    (
        BadManifest("m.jsonl", "line 3", "no path"),
        400,
        "bad_manifest",
        '{"manifest": "m.jsonl", "at": "line 3", "problem": "no path"}',
    ),
    (DuplicateKey("k" * 999), 400, "bad_request", f'{{"key": "{"k" * 100}"}}'),
    (BadMetadata("a list"), 400, "bad_metadata", '{"problem": "a list"}'),
    (BadBundle("x"), 500, "bad_bundle", "{}"),
    (MissingFile("text.onnx"), 500, "bad_bundle", '{"file": "text.onnx"}'),
    (AlteredFile("text.onnx"), 500, "bad_bundle", '{"file": "text.onnx"}'),
    (UnknownFormat("version 9"), 500, "bad_bundle", '{"problem": "version 9"}'),
    (InTheWay("out"), 500, "bad_bundle", '{"folder": "out"}'),
    (WrongVectors("text", 0.5), 500, "bad_bundle", '{"encoding": "text", "error": 0.5}'),
    (NoRoute(("text", "audio"), {"text": ["a"], "audio": []}), 422, "no_route", "{}"),
    (NoRoute(("text",), {"text": ["a"]}, "b"), 422, "no_route", '{"space": "b"}'),
    (EncoderError("x"), 500, "encoder", "{}"),
    (CannotRun("cuda", "a GPU"), 500, "encoder", '{"provider": "cuda", "lacks": "a GPU"}'),
    (
        WrongPrecision("int8", "cuda"),
        500,
        "encoder",
        '{"precision": "int8", "provider": "cuda"}',
    ),
    (
        UnverifiedPrecision("int8", "was not measured"),
        500,
        "encoder",
        '{"precision": "int8", "problem": "was not measured"}',
    ),
    (BadVectors("text", "NaN"), 500, "encoder", '{"encoding": "text", "problem": "NaN"}'),
    (BadWeights("fusion.onnx", 2.0), 500, "encoder", '{"file": "fusion.onnx"}'),
    (CollectionError("x"), 500, "collection", "{}"),
    (UnknownCollection("a"), 404, "unknown_collection", '{"name": "a"}'),
    (CollectionExists("a"), 409, "collection_exists", '{"name": "a"}'),
    (BadName("A" * 99), 400, "bad_name", f'{{"name": "{"A" * 80}"}}'),
    (
        FingerprintConflict("a", "one", "two"),
        409,
        "fingerprint_conflict",
        '{"name": "a", "collection": "one", "bundle": "two"}',
    ),
    (RecordsLost("a"), 409, "records_lost", '{"name": "a"}'),
    (
        CollectionUnusable("a", "Permission denied"),
        503,
        "collection_unusable",
        '{"name": "a", "problem": "Permission denied"}',
    ),
    (NoCells("video"), 422, "no_cells", '{"encoding": "video"}'),
    (NoVectors("i", "video"), 422, "no_vectors", '{"id": "i", "encoding": "video"}'),
    (ItemExists("i"), 409, "item_exists", '{"id": "i"}'),
    (NoPreview("i"), 404, "no_preview", '{"id": "i"}'),
    (DataInUse(), 503, "data_in_use", "{}"),
    (DataUnusable(Path("mine"), "it is a file"), 500, "collection", '{"problem": "it is a file"}'),
    (BadVocabulary("empty"), 500, "collection", '{"problem": "empty"}'),
    (BadBackup("torn"), 500, "collection", '{"problem": "torn"}'),
    (NoRay(), 500, "collection", "{}"),
    (CannotWatch("too many"), 500, "collection", '{"problem": "too many"}'),
    (CannotImport("u", "no"), 500, "collection", '{"url": "u", "problem": "no"}'),
    (NoAnswer("u", "busy"), 500, "collection", '{"url": "u", "problem": "busy"}'),
    (
        ReaderMissing("speech", "is deaf"),
        500,
        "reader_missing",
        '{"reader": "speech", "problem": "is deaf"}',
    ),
    (NotReady("a", "half done"), 409, "not_ready", '{"name": "a", "problem": "half done"}'),
    (UnknownItem("i"), 404, "unknown_item", '{"id": "i"}'),
    (NoMedia("i"), 404, "unknown_item", '{"id": "i"}'),
    (UnknownMark(7), 404, "unknown_mark", '{"number": 7}'),
    (NotLearned("too little"), 500, "collection", '{"problem": "too little"}'),
    (UnknownSchema(9), 500, "unknown_schema", '{"found": 9}'),
    (BadFilter("$x"), 400, "bad_filter", '{"problem": "$x"}'),
    (VectorStoreFailed("gone"), 503, "vector_store", "{}"),
    (ServiceError("x"), 500, "service", "{}"),
    (BadRequest("top_k"), 400, "bad_request", '{"problem": "top_k"}'),
    (UnknownModel("a", "b"), 404, "model_not_found", '{"model": "a", "known": "b"}'),
    (BadKey(), 401, "unauthorized", "{}"),
    (BadLink(), 401, "bad_link", "{}"),
    (Forbidden("read", "add"), 403, "forbidden", '{"role": "read", "needs": "add"}'),
    (LimitedKey(), 403, "forbidden", "{}"),
    (KeyProblem("x"), 500, "keys", "{}"),
    (KeyExists("phone"), 500, "keys", '{"name": "phone"}'),
    (UnknownKey("phone"), 500, "keys", '{"name": "phone"}'),
    (BadKeyName("a b"), 500, "keys", '{"name": "a b"}'),
    (BadKeyFile(), 503, "bad_keys", "{}"),
    (BadHost("evil"), 421, "bad_host", '{"host": "evil"}'),
    (CrossOrigin("http://evil"), 403, "cross_origin", '{"origin": "http://evil"}'),
    (BadRange("r" * 99), 400, "bad_range", f'{{"range": "{"r" * 80}"}}'),
    (PackedBody("gzip"), 415, "packed_body", '{"coding": "gzip"}'),
    (BodyTooLarge(16), 413, "too_large", '{"limit_mb": 16}'),
    (Overloaded("text"), 429, "overloaded", '{"queue": "text", "retry_s": 1}'),
    (
        OverQuota("requests", "3 per 1 hour", 60),
        429,
        "over_quota",
        '{"what": "requests", "allowed": "3 per 1 hour", "retry_s": 60}',
    ),
    (SlowBody(600.0), 408, "too_slow", '{"limit_s": 600.0}'),
    (CannotReload("not now"), 409, "cannot_reload", '{"problem": "not now"}'),
    (DiskFull(64), 503, "storage", '{"limit_mb": 64}'),
    (TimedOut(60.0), 503, "timed_out", '{"limit_s": 60.0, "retry_s": 1}'),
    (ShuttingDown(), 503, "shutting_down", "{}"),
    (JobError("x"), 500, "job", "{}"),
    (NoImports(), 400, "no_imports", "{}"),
    (UnknownPath("a/b"), 404, "unknown_path", '{"path": "a/b"}'),
    (TooManyJobs(100), 429, "too_many_jobs", '{"limit": 100}'),
    (UnknownJob("j"), 404, "unknown_job", '{"id": "j"}'),
    (sqlite3.OperationalError("disk full"), 503, "storage", "{}"),
    (FileNotFoundError(2, "gone", "/a/path"), 503, "storage", "{}"),
]


@pytest.mark.parametrize("error, status, code, detail", ANSWERS)
def test_an_error_is_answered_with_its_own_detail(
    error: Exception, status: int, code: str, detail: str
) -> None:
    answer = error_body(error)
    assert (status_and_code(type(error))[0], answer["code"]) == (status, code)
    assert json.dumps(answer["detail"]) == detail


def test_every_error_that_clients_meet_is_in_this_table() -> None:
    packages = (media, evaluation, export, index, service)
    # in export's own commands and in the client, which no request meets
    elsewhere = {"export.pretrained", "export.stems", "service.client"}
    there = set()
    for package in packages:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__") or found.name in elsewhere:
                continue
            module = importlib.import_module(found.name)
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, Exception) and cls.__module__ == found.name:
                    there.add(cls)
    there.remove(BodyProblem)  # it carries one of the others
    assert there <= {type(error) for error, *_ in ANSWERS}


def test_an_unexpected_error_tells_nothing() -> None:
    assert status_and_code(ZeroDivisionError) == (500, "internal")


def test_batching_knows_nothing_of_http() -> None:
    code = (
        "import service.batching, sys; "
        "loaded = {name.partition('.')[0] for name in sys.modules}; "
        "assert not loaded & {'fastapi', 'starlette', 'export', 'index', 'media'}, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
