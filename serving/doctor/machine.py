"""What the server needs of the machine it runs on."""

from __future__ import annotations

import asyncio
import platform
import resource
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path

import httpx

from serving.doctor.finding import Finding, size
from serving.engine import hardware, launch, plan
from serving.server import CannotListen, listen
from serving.settings import Settings
from serving.storage.objects import RESERVE

ROOMY = 5 << 30
PROCESS, DECODER = 300 << 20, 512 << 20
"""Bytes of the server beside its caches, and of a process that decodes a large image."""
FILES_BESIDE = 256
"""Files that are open beside the connections of requests: libraries, the database, replicas that are probed."""
INSTALLED = Path(__file__).stat().st_mtime
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


async def versions(_: Settings) -> Finding:
    return Finding("ok", "versions", f"homescope {metadata.version('homescope')}, Python {platform.python_version()}")


async def data_folder(settings: Settings) -> Finding:
    folder = settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        where = "set HOMESCOPE_DATA to a folder that can be written"
        return Finding("fail", "data folder", f"{folder}: {error.strerror}; {where}")
    said = f"{folder} has {size(free)} free"
    if free < RESERVE:
        return Finding("fail", "data folder", f"{said}; free some: below {size(RESERVE)} nothing is stored")
    if folder.stat().st_mode & 0o077:
        return Finding("warn", "data folder", f"others can look into {folder}; chmod 700 it")
    if free < ROOMY:
        return Finding("warn", "data folder", f"{said}; records and uploads grow, see HOMESCOPE_RECORDS_DAYS")
    return Finding("ok", "data folder", said)


async def port(settings: Settings) -> Finding:
    try:
        listen(settings.host, settings.port).close()
    except CannotListen as reason:
        if status := await _of_a_server(settings):
            return Finding("ok", "port", f"a homescope-server listens on {settings.host}:{settings.port}; {status}")
        return Finding("fail", "port", f"{reason}; choose another with HOMESCOPE_HOST and HOMESCOPE_PORT")
    return Finding("ok", "port", f"{settings.host}:{settings.port} is free")


async def _of_a_server(settings: Settings) -> str | None:
    """What the server says that has the port, if it is one of ours."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        async with httpx.AsyncClient(base_url=f"http://{host}:{settings.port}", trust_env=False, timeout=5) as client:
            alive = await client.get("/livez")
            if alive.status_code != 200 or alive.json() != {"status": "alive"}:
                return None
            return str((await client.get("/readyz")).json()["status"])
    except (httpx.HTTPError, ValueError):
        return None


async def memory(settings: Settings) -> Finding:
    answers = settings.cache_bytes if settings.cache == "memory" else 0
    held = settings.max_media_bytes + answers + settings.fetch_cache_bytes
    needed = PROCESS + held + settings.decode_workers * DECODER
    available = _available()
    if available is None:
        return Finding("skip", "memory", "this system does not say how much is available")
    said = f"{size(available)} are available, the server may take {size(needed)}"
    if available < needed:
        return Finding("warn", "memory", f"{said}; lower HOMESCOPE_MAX_MEDIA_BYTES or HOMESCOPE_DECODE_WORKERS")
    return Finding("ok", "memory", said)


def _available() -> int | None:
    """Bytes, no more than the container is allowed."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        return min(available, int(CGROUP.read_text()))
    except (OSError, ValueError):  # "max", or no such file
        return available


async def open_files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.max_in_flight + settings.max_queued + FILES_BESIDE
    said = f"{soft} may be open, {needed} are needed at full load"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding("ok", "open files", said)
    enough = hard == resource.RLIM_INFINITY or hard >= needed
    change = f"ulimit -n {needed}" if enough else "LimitNOFILE= of the systemd unit, or --ulimit of the container"
    return Finding("fail", "open files", f"{said}; raise the limit: {change}")


async def clock(_: Settings) -> Finding:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < INSTALLED - 86_400:
        return Finding("fail", "clock", f"it is {now} here, before this version was installed; set the clock (NTP)")
    return Finding("ok", "clock", f"it is {now} here")


async def accelerator(settings: Settings) -> Finding:
    """What the embedded engine would run on."""
    machine = await asyncio.to_thread(hardware.detect)
    found = ", ".join(f"{gpu.name} ({gpu.memory_gib:.0f} GiB)" for gpu in machine.gpus) or "no NVIDIA GPU"
    if settings.engine_urls:
        return Finding("ok", "accelerator", f"{found}; none is needed here, the engines run elsewhere")
    try:
        chosen = plan.plan(machine, model=settings.model, served_names=settings.served_models)
        await asyncio.to_thread(launch.check, chosen)
    except plan.LaunchError as error:
        return Finding("fail", "accelerator", f"{found}; {error}")
    return Finding("ok", "accelerator", f"{found}; {chosen.summary}")
