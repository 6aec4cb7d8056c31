"""Start, list and cancel jobs that import folders."""

from __future__ import annotations

import asyncio

from .. import schemas
from ..access import ChangeOf, needs
from ..active import Tercet
from ..jobs import Job, below
from ..keys import ADD, READ
from .router import Router

router = Router()


@router.post("/v1/jobs", status_code=202, tags=["jobs"])
@needs(ADD, "job.add")
async def add_job(tercet: Tercet, request: schemas.NewJob, change: ChangeOf) -> Job:
    """Import a folder or a file that lies below the configured import folder. Answered when the job
    is on disk.
    """
    change.about |= {"collection": request.collection, "path": request.path}
    tercet.collections.get(request.collection)
    tercet.check_room()
    await asyncio.to_thread(below, tercet.settings.imports, request.path)
    job = await asyncio.to_thread(tercet.jobs.add, request.collection, request.path)
    change.about["job"] = job.id
    return job


@router.get("/v1/jobs", tags=["jobs"])
@needs(READ)
async def list_jobs(tercet: Tercet) -> schemas.JobList:
    """Import jobs, also those that have ended lately."""
    return schemas.JobList(jobs=tercet.jobs.all())


@router.get("/v1/jobs/{id}", tags=["jobs"])
@needs(READ)
async def get_job(tercet: Tercet, id: str) -> Job:
    """How far a job is, and which files failed and why."""
    return tercet.jobs.get(id)


@router.delete("/v1/jobs/{id}", status_code=204, tags=["jobs"])
@needs(ADD, "job.cancel")
async def cancel_job(tercet: Tercet, id: str, change: ChangeOf) -> None:
    """End a job. What it has indexed stays. One that has ended already is forgotten."""
    change.about |= {"job": id, "collection": tercet.jobs.get(id).collection}
    await asyncio.to_thread(tercet.jobs.cancel, id)
