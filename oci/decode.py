"""From validated JSON to the typed spec. Total for everything the schema accepts; checks nothing itself."""

from __future__ import annotations

from pysandbox.oci import spec as s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


_NONE: Sequence[Any] = ()


def config(o: Mapping[str, Any]) -> s.Spec:
    """The whole of config.json."""
    return s.Spec(
        oci_version=o["ociVersion"],
        process=process(o["process"]),
        root=s.Root(path=o["root"]["path"], readonly=o["root"].get("readonly", False)),
        hostname=o.get("hostname", ""),
        domainname=o.get("domainname", ""),
        mounts=tuple([_mount(m) for m in o.get("mounts", _NONE)]),
        hooks=hooks(o["hooks"]) if "hooks" in o else s.Hooks(),
        annotations=o.get("annotations", {}),
        linux=_linux(o["linux"]) if "linux" in o else s.Linux(),
    )


def process(o: Mapping[str, Any]) -> s.Process:
    """The `process` object, and process.json of `exec`."""
    get = o.get
    size, caps, sched, io, affinity = (
        get("consoleSize"),
        get("capabilities"),
        get("scheduler"),
        get("ioPriority"),
        get("execCPUAffinity"),
    )
    return s.Process(
        args=tuple(o["args"]),
        cwd=o["cwd"],
        env=_environment(get("env", _NONE)),
        terminal=get("terminal", False),
        console_size=s.ConsoleSize(height=size["height"], width=size["width"]) if size else None,
        user=_user(o["user"]) if "user" in o else s.User(),
        capabilities=_capabilities(caps) if caps is not None else None,
        rlimits=tuple([s.Rlimit(type=r["type"], soft=r["soft"], hard=r["hard"]) for r in get("rlimits", _NONE)]),
        no_new_privileges=get("noNewPrivileges", False),
        apparmor_profile=get("apparmorProfile", ""),
        selinux_label=get("selinuxLabel", ""),
        oom_score_adj=get("oomScoreAdj"),
        scheduler=_scheduler(sched) if sched else None,
        io_priority=s.IOPriority(cls=io["class"], priority=io.get("priority", 0)) if io else None,
        exec_cpu_affinity=s.CPUAffinity(initial=affinity.get("initial", ""), final=affinity.get("final", ""))
        if affinity
        else None,
    )


def resources(o: Mapping[str, Any]) -> s.Resources:
    """`linux.resources`, and what `update` reads."""
    memory, cpu, block, net, rdma = o.get("memory"), o.get("cpu"), o.get("blockIO"), o.get("network"), o.get("rdma")
    return s.Resources(
        devices=tuple([_device_rule(d) for d in o.get("devices", _NONE)]),
        memory=_memory(memory) if memory else None,
        cpu=_cpu(cpu) if cpu else None,
        pids_limit=o["pids"].get("limit") if "pids" in o else None,
        block_io=_block_io(block) if block else None,
        hugepage_limits=tuple(
            [s.HugepageLimit(page_size=h["pageSize"], limit=h["limit"]) for h in o.get("hugepageLimits", _NONE)]
        ),
        network=s.Network(
            class_id=net.get("classID"),
            priorities=tuple(
                [s.InterfacePriority(name=p["name"], priority=p["priority"]) for p in net.get("priorities", _NONE)]
            ),
        )
        if net
        else None,
        rdma={k: s.Rdma(hca_handles=v.get("hcaHandles"), hca_objects=v.get("hcaObjects")) for k, v in rdma.items()}
        if rdma
        else None,
        unified=o.get("unified"),
    )


# --- process ------------------------------------------------------------------------------------------------


def _environment(entries: Sequence[str]) -> tuple[str, ...]:
    """One entry a name: the last value, at the place of the first, as runc's setenv loop leaves them."""
    return tuple({entry.partition("=")[0]: entry for entry in entries}.values())


def _user(o: Mapping[str, Any]) -> s.User:
    return s.User(
        uid=o.get("uid", 0),
        gid=o.get("gid", 0),
        umask=o.get("umask"),
        additional_gids=tuple(o.get("additionalGids", _NONE)),
    )


def _capabilities(o: Mapping[str, Any]) -> s.Capabilities:
    def names(kind: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(o.get(kind, _NONE)))

    return s.Capabilities(
        bounding=names("bounding"),
        effective=names("effective"),
        inheritable=names("inheritable"),
        permitted=names("permitted"),
        ambient=names("ambient"),
    )


def _scheduler(o: Mapping[str, Any]) -> s.Scheduler:
    return s.Scheduler(
        policy=o["policy"],
        nice=o.get("nice", 0),
        priority=o.get("priority", 0),
        flags=tuple(o.get("flags", _NONE)),
        runtime=o.get("runtime", 0),
        deadline=o.get("deadline", 0),
        period=o.get("period", 0),
    )


# --- mounts, hooks ------------------------------------------------------------------------------------------


def _mappings(entries: Sequence[Mapping[str, Any]]) -> tuple[s.IDMapping, ...]:
    return tuple([s.IDMapping(container_id=m["containerID"], host_id=m["hostID"], size=m["size"]) for m in entries])


def _mount(o: Mapping[str, Any]) -> s.Mount:
    get = o.get
    destination = o["destination"]
    return s.Mount(
        # "It MAY be a relative path, in which case it MUST be interpreted as relative to '/'" (config.md, Mounts).
        destination=destination if destination[0] == "/" else "/" + destination,
        type=get("type", ""),
        source=get("source", ""),
        options=tuple(get("options", _NONE)),
        uid_mappings=_mappings(get("uidMappings", _NONE)),
        gid_mappings=_mappings(get("gidMappings", _NONE)),
    )


def hooks(o: Mapping[str, Any]) -> s.Hooks:
    """The `hooks` object."""

    def kind(name: str) -> tuple[s.Hook, ...]:
        return tuple(
            [
                s.Hook(
                    path=h["path"],
                    args=tuple(h.get("args", _NONE)),
                    env=tuple(h["env"]) if "env" in h else None,
                    timeout=h.get("timeout"),
                )
                for h in o.get(name, _NONE)
            ]
        )

    return s.Hooks(
        prestart=kind("prestart"),
        create_runtime=kind("createRuntime"),
        create_container=kind("createContainer"),
        start_container=kind("startContainer"),
        poststart=kind("poststart"),
        poststop=kind("poststop"),
    )


# --- resources ----------------------------------------------------------------------------------------------


def _device_rule(o: Mapping[str, Any]) -> s.DeviceRule:
    return s.DeviceRule(
        allow=o["allow"],
        type=o.get("type") or "a",
        major=o.get("major"),
        minor=o.get("minor"),
        access=o.get("access", ""),
    )


def _memory(o: Mapping[str, Any]) -> s.Memory:
    get = o.get
    return s.Memory(
        limit=get("limit"),
        reservation=get("reservation"),
        swap=get("swap"),
        kernel=get("kernel"),
        kernel_tcp=get("kernelTCP"),
        swappiness=get("swappiness"),
        disable_oom_killer=get("disableOOMKiller"),
        use_hierarchy=get("useHierarchy"),
        check_before_update=get("checkBeforeUpdate"),
    )


def _cpu(o: Mapping[str, Any]) -> s.CPU:
    get = o.get
    return s.CPU(
        shares=get("shares"),
        quota=get("quota"),
        burst=get("burst"),
        period=get("period"),
        realtime_runtime=get("realtimeRuntime"),
        realtime_period=get("realtimePeriod"),
        cpus=get("cpus", ""),
        mems=get("mems", ""),
        idle=get("idle"),
    )


def _block_io(o: Mapping[str, Any]) -> s.BlockIO:
    def throttle(name: str) -> tuple[s.ThrottleDevice, ...]:
        return tuple([s.ThrottleDevice(major=d["major"], minor=d["minor"], rate=d["rate"]) for d in o.get(name, _NONE)])

    return s.BlockIO(
        weight=o.get("weight"),
        leaf_weight=o.get("leafWeight"),
        weight_device=tuple(
            [
                s.WeightDevice(
                    major=d["major"], minor=d["minor"], weight=d.get("weight"), leaf_weight=d.get("leafWeight")
                )
                for d in o.get("weightDevice", _NONE)
            ]
        ),
        throttle_read_bps_device=throttle("throttleReadBpsDevice"),
        throttle_write_bps_device=throttle("throttleWriteBpsDevice"),
        throttle_read_iops_device=throttle("throttleReadIOPSDevice"),
        throttle_write_iops_device=throttle("throttleWriteIOPSDevice"),
    )


# --- linux --------------------------------------------------------------------------------------------------


def _linux(o: Mapping[str, Any]) -> s.Linux:
    get = o.get
    res, net, sec, rdt, person, offsets = (
        get("resources"),
        get("netDevices"),
        get("seccomp"),
        get("intelRdt"),
        get("personality"),
        get("timeOffsets"),
    )
    return s.Linux(
        uid_mappings=_mappings(get("uidMappings", _NONE)),
        gid_mappings=_mappings(get("gidMappings", _NONE)),
        sysctl=get("sysctl"),
        resources=resources(res) if res is not None else None,
        cgroups_path=get("cgroupsPath", ""),
        namespaces=tuple([s.Namespace(type=n["type"], path=n.get("path", "")) for n in get("namespaces", _NONE)]),
        devices=tuple([_device(d) for d in get("devices", _NONE)]),
        net_devices={k: s.NetDevice(name=v.get("name", "")) for k, v in net.items()} if net else None,
        seccomp=_seccomp(sec) if sec is not None else None,
        rootfs_propagation=get("rootfsPropagation", ""),
        masked_paths=tuple(get("maskedPaths", _NONE)),
        readonly_paths=tuple(get("readonlyPaths", _NONE)),
        mount_label=get("mountLabel", ""),
        intel_rdt=_intel_rdt(rdt) if rdt is not None else None,
        personality=s.Personality(domain=person["domain"], flags=tuple(person.get("flags", _NONE))) if person else None,
        time_offsets={
            clock: s.TimeOffset(secs=offsets[clock].get("secs", 0), nanosecs=offsets[clock].get("nanosecs", 0))
            for clock in ("monotonic", "boottime")
            if clock in offsets
        }
        if offsets
        else None,
    )


def _device(o: Mapping[str, Any]) -> s.Device:
    return s.Device(
        path=o["path"],
        type=o["type"],
        major=o.get("major", 0),
        minor=o.get("minor", 0),
        file_mode=o.get("fileMode"),
        uid=o.get("uid"),
        gid=o.get("gid"),
    )


def _seccomp(o: Mapping[str, Any]) -> s.Seccomp:
    return s.Seccomp(
        default_action=o["defaultAction"],
        default_errno_ret=o.get("defaultErrnoRet"),
        architectures=tuple(o.get("architectures", _NONE)),
        flags=tuple(o.get("flags", _NONE)),
        listener_path=o.get("listenerPath", ""),
        listener_metadata=o.get("listenerMetadata", ""),
        syscalls=tuple(
            [
                s.SeccompRule(
                    names=tuple(r["names"]),
                    action=r["action"],
                    errno_ret=r.get("errnoRet"),
                    args=tuple(
                        [
                            s.SeccompArg(index=a["index"], value=a["value"], op=a["op"], value_two=a.get("valueTwo", 0))
                            for a in r.get("args", _NONE)
                        ]
                    ),
                )
                for r in o.get("syscalls", _NONE)
            ]
        ),
    )


def _intel_rdt(o: Mapping[str, Any]) -> s.IntelRdt:
    return s.IntelRdt(
        clos_id=o.get("closID", ""),
        schemata=tuple(o.get("schemata", _NONE)),
        l3_cache_schema=o.get("l3CacheSchema", ""),
        mem_bw_schema=o.get("memBwSchema", ""),
        enable_cmt=o.get("enableCMT", False),
        enable_mbm=o.get("enableMBM", False),
        enable_monitoring=o.get("enableMonitoring", False),
    )
