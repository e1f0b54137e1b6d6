"""What a training process needs in its environment before it starts, because neither torch nor the C library looks twice."""

from __future__ import annotations


def training_environment(threads: int) -> dict[str, str]:
    """Environment variables for a process that trains on `threads` CPU threads.

    OMP_WAIT_POLICY: threads that spin while they wait slow down every neighbour. GLIBC_TUNABLES: by default the C library gives each
    large tensor back to the system and fetches it anew at the next step, page by page; keeping it, in huge pages, made a full step of
    the demo's network take 55 ms instead of 80 to 120 ms and its times far steadier (docs/LOG.md). Other C libraries ignore it.
    """
    keep = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "GLIBC_TUNABLES": keep}
