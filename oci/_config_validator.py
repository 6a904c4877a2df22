"""Yes or no to config.json, process.json and resources, quickly; `validate` explains a no.

Generated from schema/config.schema.json by schema/generate.py; do not edit.
"""

# ruff: noqa
# mypy: ignore-errors


class Rejected(Exception):
    """The document does not match the schema."""


def config(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['ociVersion', 'process', 'root']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'ociVersion' in data_keys:
            data_keys.remove('ociVersion')
            data__ociVersion = data['ociVersion']
            if not isinstance(data__ociVersion, str):
                raise Rejected
            if isinstance(data__ociVersion, str):
                data__ociVersion_len = len(data__ociVersion)
                if data__ociVersion_len < 1:
                    raise Rejected
        if 'process' in data_keys:
            data_keys.remove('process')
            data__process = data['process']
            process(data__process)
        if 'root' in data_keys:
            data_keys.remove('root')
            data__root = data['root']
            root(data__root)
        if 'hostname' in data_keys:
            data_keys.remove('hostname')
            data__hostname = data['hostname']
            if not isinstance(data__hostname, str):
                raise Rejected
        if 'domainname' in data_keys:
            data_keys.remove('domainname')
            data__domainname = data['domainname']
            if not isinstance(data__domainname, str):
                raise Rejected
        if 'mounts' in data_keys:
            data_keys.remove('mounts')
            data__mounts = data['mounts']
            if not isinstance(data__mounts, (list, tuple)):
                raise Rejected
            data__mounts_is_list = isinstance(data__mounts, (list, tuple))
            if data__mounts_is_list:
                data__mounts_len = len(data__mounts)
                for data__mounts_x, data__mounts_item in enumerate(data__mounts):
                    mount(data__mounts_item)
        if 'hooks' in data_keys:
            data_keys.remove('hooks')
            data__hooks = data['hooks']
            hooks(data__hooks)
        if 'annotations' in data_keys:
            data_keys.remove('annotations')
            data__annotations = data['annotations']
            stringmap(data__annotations)
        if 'linux' in data_keys:
            data_keys.remove('linux')
            data__linux = data['linux']
            linux(data__linux)
    return data

def linux(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_keys = set(data.keys())
        if 'uidMappings' in data_keys:
            data_keys.remove('uidMappings')
            data__uidMappings = data['uidMappings']
            idmappings(data__uidMappings)
        if 'gidMappings' in data_keys:
            data_keys.remove('gidMappings')
            data__gidMappings = data['gidMappings']
            idmappings(data__gidMappings)
        if 'sysctl' in data_keys:
            data_keys.remove('sysctl')
            data__sysctl = data['sysctl']
            stringmap(data__sysctl)
        if 'resources' in data_keys:
            data_keys.remove('resources')
            data__resources = data['resources']
            resources(data__resources)
        if 'cgroupsPath' in data_keys:
            data_keys.remove('cgroupsPath')
            data__cgroupsPath = data['cgroupsPath']
            if not isinstance(data__cgroupsPath, str):
                raise Rejected
        if 'namespaces' in data_keys:
            data_keys.remove('namespaces')
            data__namespaces = data['namespaces']
            if not isinstance(data__namespaces, (list, tuple)):
                raise Rejected
            data__namespaces_is_list = isinstance(data__namespaces, (list, tuple))
            if data__namespaces_is_list:
                data__namespaces_len = len(data__namespaces)
                for data__namespaces_x, data__namespaces_item in enumerate(data__namespaces):
                    if not isinstance(data__namespaces_item, dict):
                        raise Rejected
                    data__namespaces_item_is_dict = isinstance(data__namespaces_item, dict)
                    if data__namespaces_item_is_dict:
                        data__namespaces_item__missing_keys = set(['type']) - data__namespaces_item.keys()
                        if data__namespaces_item__missing_keys:
                            raise Rejected
                        data__namespaces_item_keys = set(data__namespaces_item.keys())
                        if 'type' in data__namespaces_item_keys:
                            data__namespaces_item_keys.remove('type')
                            data__namespaces_item__type = data__namespaces_item['type']
                            name(data__namespaces_item__type)
                        if 'path' in data__namespaces_item_keys:
                            data__namespaces_item_keys.remove('path')
                            data__namespaces_item__path = data__namespaces_item['path']
                            if not isinstance(data__namespaces_item__path, str):
                                raise Rejected
        if 'devices' in data_keys:
            data_keys.remove('devices')
            data__devices = data['devices']
            if not isinstance(data__devices, (list, tuple)):
                raise Rejected
            data__devices_is_list = isinstance(data__devices, (list, tuple))
            if data__devices_is_list:
                data__devices_len = len(data__devices)
                for data__devices_x, data__devices_item in enumerate(data__devices):
                    if not isinstance(data__devices_item, dict):
                        raise Rejected
                    data__devices_item_is_dict = isinstance(data__devices_item, dict)
                    if data__devices_item_is_dict:
                        data__devices_item__missing_keys = set(['path', 'type']) - data__devices_item.keys()
                        if data__devices_item__missing_keys:
                            raise Rejected
                        data__devices_item_keys = set(data__devices_item.keys())
                        if 'path' in data__devices_item_keys:
                            data__devices_item_keys.remove('path')
                            data__devices_item__path = data__devices_item['path']
                            name(data__devices_item__path)
                        if 'type' in data__devices_item_keys:
                            data__devices_item_keys.remove('type')
                            data__devices_item__type = data__devices_item['type']
                            if not (isinstance(data__devices_item__type, str) and data__devices_item__type == 'b' or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'c') or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'u') or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'p')):
                                raise Rejected
                        if 'major' in data__devices_item_keys:
                            data__devices_item_keys.remove('major')
                            data__devices_item__major = data__devices_item['major']
                            int64(data__devices_item__major)
                        if 'minor' in data__devices_item_keys:
                            data__devices_item_keys.remove('minor')
                            data__devices_item__minor = data__devices_item['minor']
                            int64(data__devices_item__minor)
                        if 'fileMode' in data__devices_item_keys:
                            data__devices_item_keys.remove('fileMode')
                            data__devices_item__fileMode = data__devices_item['fileMode']
                            uint32(data__devices_item__fileMode)
                        if 'uid' in data__devices_item_keys:
                            data__devices_item_keys.remove('uid')
                            data__devices_item__uid = data__devices_item['uid']
                            uint32(data__devices_item__uid)
                        if 'gid' in data__devices_item_keys:
                            data__devices_item_keys.remove('gid')
                            data__devices_item__gid = data__devices_item['gid']
                            uint32(data__devices_item__gid)
        if 'netDevices' in data_keys:
            data_keys.remove('netDevices')
            data__netDevices = data['netDevices']
            if not isinstance(data__netDevices, dict):
                raise Rejected
            data__netDevices_is_dict = isinstance(data__netDevices, dict)
            if data__netDevices_is_dict:
                data__netDevices_keys = set(data__netDevices.keys())
                for data__netDevices_key in data__netDevices_keys:
                    if data__netDevices_key not in []:
                        data__netDevices_value = data__netDevices.get(data__netDevices_key)
                        if not isinstance(data__netDevices_value, dict):
                            raise Rejected
                        data__netDevices_value_is_dict = isinstance(data__netDevices_value, dict)
                        if data__netDevices_value_is_dict:
                            data__netDevices_value_keys = set(data__netDevices_value.keys())
                            if 'name' in data__netDevices_value_keys:
                                data__netDevices_value_keys.remove('name')
                                data__netDevices_value__name = data__netDevices_value['name']
                                if not isinstance(data__netDevices_value__name, str):
                                    raise Rejected
        if 'seccomp' in data_keys:
            data_keys.remove('seccomp')
            data__seccomp = data['seccomp']
            seccomp(data__seccomp)
        if 'rootfsPropagation' in data_keys:
            data_keys.remove('rootfsPropagation')
            data__rootfsPropagation = data['rootfsPropagation']
            if not (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == '' or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'private') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'rprivate') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'shared') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'rshared') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'slave') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'rslave') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'unbindable') or (isinstance(data__rootfsPropagation, str) and data__rootfsPropagation == 'runbindable')):
                raise Rejected
        if 'maskedPaths' in data_keys:
            data_keys.remove('maskedPaths')
            data__maskedPaths = data['maskedPaths']
            strings(data__maskedPaths)
        if 'readonlyPaths' in data_keys:
            data_keys.remove('readonlyPaths')
            data__readonlyPaths = data['readonlyPaths']
            strings(data__readonlyPaths)
        if 'mountLabel' in data_keys:
            data_keys.remove('mountLabel')
            data__mountLabel = data['mountLabel']
            if not isinstance(data__mountLabel, str):
                raise Rejected
        if 'intelRdt' in data_keys:
            data_keys.remove('intelRdt')
            data__intelRdt = data['intelRdt']
            if not isinstance(data__intelRdt, dict):
                raise Rejected
            data__intelRdt_is_dict = isinstance(data__intelRdt, dict)
            if data__intelRdt_is_dict:
                data__intelRdt_keys = set(data__intelRdt.keys())
                if 'closID' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('closID')
                    data__intelRdt__closID = data__intelRdt['closID']
                    if not isinstance(data__intelRdt__closID, str):
                        raise Rejected
                if 'schemata' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('schemata')
                    data__intelRdt__schemata = data__intelRdt['schemata']
                    strings(data__intelRdt__schemata)
                if 'l3CacheSchema' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('l3CacheSchema')
                    data__intelRdt__l3CacheSchema = data__intelRdt['l3CacheSchema']
                    if not isinstance(data__intelRdt__l3CacheSchema, str):
                        raise Rejected
                if 'memBwSchema' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('memBwSchema')
                    data__intelRdt__memBwSchema = data__intelRdt['memBwSchema']
                    if not isinstance(data__intelRdt__memBwSchema, str):
                        raise Rejected
                if 'enableCMT' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('enableCMT')
                    data__intelRdt__enableCMT = data__intelRdt['enableCMT']
                    if not isinstance(data__intelRdt__enableCMT, bool):
                        raise Rejected
                if 'enableMBM' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('enableMBM')
                    data__intelRdt__enableMBM = data__intelRdt['enableMBM']
                    if not isinstance(data__intelRdt__enableMBM, bool):
                        raise Rejected
                if 'enableMonitoring' in data__intelRdt_keys:
                    data__intelRdt_keys.remove('enableMonitoring')
                    data__intelRdt__enableMonitoring = data__intelRdt['enableMonitoring']
                    if not isinstance(data__intelRdt__enableMonitoring, bool):
                        raise Rejected
        if 'personality' in data_keys:
            data_keys.remove('personality')
            data__personality = data['personality']
            if not isinstance(data__personality, dict):
                raise Rejected
            data__personality_is_dict = isinstance(data__personality, dict)
            if data__personality_is_dict:
                data__personality__missing_keys = set(['domain']) - data__personality.keys()
                if data__personality__missing_keys:
                    raise Rejected
                data__personality_keys = set(data__personality.keys())
                if 'domain' in data__personality_keys:
                    data__personality_keys.remove('domain')
                    data__personality__domain = data__personality['domain']
                    if not (isinstance(data__personality__domain, str) and data__personality__domain == 'LINUX' or (isinstance(data__personality__domain, str) and data__personality__domain == 'LINUX32')):
                        raise Rejected
                if 'flags' in data__personality_keys:
                    data__personality_keys.remove('flags')
                    data__personality__flags = data__personality['flags']
                    strings(data__personality__flags)
        if 'timeOffsets' in data_keys:
            data_keys.remove('timeOffsets')
            data__timeOffsets = data['timeOffsets']
            if not isinstance(data__timeOffsets, dict):
                raise Rejected
            data__timeOffsets_is_dict = isinstance(data__timeOffsets, dict)
            if data__timeOffsets_is_dict:
                data__timeOffsets_keys = set(data__timeOffsets.keys())
                if 'monotonic' in data__timeOffsets_keys:
                    data__timeOffsets_keys.remove('monotonic')
                    data__timeOffsets__monotonic = data__timeOffsets['monotonic']
                    timeoffset(data__timeOffsets__monotonic)
                if 'boottime' in data__timeOffsets_keys:
                    data__timeOffsets_keys.remove('boottime')
                    data__timeOffsets__boottime = data__timeOffsets['boottime']
                    timeoffset(data__timeOffsets__boottime)
    return data

def timeoffset(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_keys = set(data.keys())
        if 'secs' in data_keys:
            data_keys.remove('secs')
            data__secs = data['secs']
            int64(data__secs)
        if 'nanosecs' in data_keys:
            data_keys.remove('nanosecs')
            data__nanosecs = data['nanosecs']
            if not isinstance(data__nanosecs, int) and (not (isinstance(data__nanosecs, float) and data__nanosecs.is_integer())) or isinstance(data__nanosecs, bool):
                raise Rejected
            if isinstance(data__nanosecs, (int, float)) and (not isinstance(data__nanosecs, bool)):
                if data__nanosecs < 0:
                    raise Rejected
                if data__nanosecs > 999999999:
                    raise Rejected
    return data

def strings(data):
    if not isinstance(data, (list, tuple)):
        raise Rejected
    data_is_list = isinstance(data, (list, tuple))
    if data_is_list:
        data_len = len(data)
        for data_x, data_item in enumerate(data):
            if not isinstance(data_item, str):
                raise Rejected
    return data

def seccomp(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['defaultAction']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'defaultAction' in data_keys:
            data_keys.remove('defaultAction')
            data__defaultAction = data['defaultAction']
            seccompaction(data__defaultAction)
        if 'defaultErrnoRet' in data_keys:
            data_keys.remove('defaultErrnoRet')
            data__defaultErrnoRet = data['defaultErrnoRet']
            uint32(data__defaultErrnoRet)
        if 'flags' in data_keys:
            data_keys.remove('flags')
            data__flags = data['flags']
            if not isinstance(data__flags, (list, tuple)):
                raise Rejected
            data__flags_is_list = isinstance(data__flags, (list, tuple))
            if data__flags_is_list:
                data__flags_len = len(data__flags)
                for data__flags_x, data__flags_item in enumerate(data__flags):
                    if not (isinstance(data__flags_item, str) and data__flags_item == 'SECCOMP_FILTER_FLAG_TSYNC' or (isinstance(data__flags_item, str) and data__flags_item == 'SECCOMP_FILTER_FLAG_LOG') or (isinstance(data__flags_item, str) and data__flags_item == 'SECCOMP_FILTER_FLAG_SPEC_ALLOW') or (isinstance(data__flags_item, str) and data__flags_item == 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV')):
                        raise Rejected
        if 'listenerPath' in data_keys:
            data_keys.remove('listenerPath')
            data__listenerPath = data['listenerPath']
            if not isinstance(data__listenerPath, str):
                raise Rejected
        if 'listenerMetadata' in data_keys:
            data_keys.remove('listenerMetadata')
            data__listenerMetadata = data['listenerMetadata']
            if not isinstance(data__listenerMetadata, str):
                raise Rejected
        if 'architectures' in data_keys:
            data_keys.remove('architectures')
            data__architectures = data['architectures']
            if not isinstance(data__architectures, (list, tuple)):
                raise Rejected
            data__architectures_is_list = isinstance(data__architectures, (list, tuple))
            if data__architectures_is_list:
                data__architectures_len = len(data__architectures)
                for data__architectures_x, data__architectures_item in enumerate(data__architectures):
                    if not (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_NATIVE' or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_X86') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_X86_64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_X32') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_ARM') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_AARCH64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPS') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPS64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPS64N32') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPSEL') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPSEL64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_MIPSEL64N32') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_PPC') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_PPC64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_PPC64LE') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_S390') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_S390X') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_PARISC') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_PARISC64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_RISCV64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_LOONGARCH64') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_M68K') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_SH') or (isinstance(data__architectures_item, str) and data__architectures_item == 'SCMP_ARCH_SHEB')):
                        raise Rejected
        if 'syscalls' in data_keys:
            data_keys.remove('syscalls')
            data__syscalls = data['syscalls']
            if not isinstance(data__syscalls, (list, tuple)):
                raise Rejected
            data__syscalls_is_list = isinstance(data__syscalls, (list, tuple))
            if data__syscalls_is_list:
                data__syscalls_len = len(data__syscalls)
                for data__syscalls_x, data__syscalls_item in enumerate(data__syscalls):
                    if not isinstance(data__syscalls_item, dict):
                        raise Rejected
                    data__syscalls_item_is_dict = isinstance(data__syscalls_item, dict)
                    if data__syscalls_item_is_dict:
                        data__syscalls_item__missing_keys = set(['names', 'action']) - data__syscalls_item.keys()
                        if data__syscalls_item__missing_keys:
                            raise Rejected
                        data__syscalls_item_keys = set(data__syscalls_item.keys())
                        if 'names' in data__syscalls_item_keys:
                            data__syscalls_item_keys.remove('names')
                            data__syscalls_item__names = data__syscalls_item['names']
                            if not isinstance(data__syscalls_item__names, (list, tuple)):
                                raise Rejected
                            data__syscalls_item__names_is_list = isinstance(data__syscalls_item__names, (list, tuple))
                            if data__syscalls_item__names_is_list:
                                data__syscalls_item__names_len = len(data__syscalls_item__names)
                                if data__syscalls_item__names_len < 1:
                                    raise Rejected
                                for data__syscalls_item__names_x, data__syscalls_item__names_item in enumerate(data__syscalls_item__names):
                                    name(data__syscalls_item__names_item)
                        if 'action' in data__syscalls_item_keys:
                            data__syscalls_item_keys.remove('action')
                            data__syscalls_item__action = data__syscalls_item['action']
                            seccompaction(data__syscalls_item__action)
                        if 'errnoRet' in data__syscalls_item_keys:
                            data__syscalls_item_keys.remove('errnoRet')
                            data__syscalls_item__errnoRet = data__syscalls_item['errnoRet']
                            uint32(data__syscalls_item__errnoRet)
                        if 'args' in data__syscalls_item_keys:
                            data__syscalls_item_keys.remove('args')
                            data__syscalls_item__args = data__syscalls_item['args']
                            if not isinstance(data__syscalls_item__args, (list, tuple)):
                                raise Rejected
                            data__syscalls_item__args_is_list = isinstance(data__syscalls_item__args, (list, tuple))
                            if data__syscalls_item__args_is_list:
                                data__syscalls_item__args_len = len(data__syscalls_item__args)
                                for data__syscalls_item__args_x, data__syscalls_item__args_item in enumerate(data__syscalls_item__args):
                                    if not isinstance(data__syscalls_item__args_item, dict):
                                        raise Rejected
                                    data__syscalls_item__args_item_is_dict = isinstance(data__syscalls_item__args_item, dict)
                                    if data__syscalls_item__args_item_is_dict:
                                        data__syscalls_item__args_item__missing_keys = set(['index', 'value', 'op']) - data__syscalls_item__args_item.keys()
                                        if data__syscalls_item__args_item__missing_keys:
                                            raise Rejected
                                        data__syscalls_item__args_item_keys = set(data__syscalls_item__args_item.keys())
                                        if 'index' in data__syscalls_item__args_item_keys:
                                            data__syscalls_item__args_item_keys.remove('index')
                                            data__syscalls_item__args_item__index = data__syscalls_item__args_item['index']
                                            if not isinstance(data__syscalls_item__args_item__index, int) and (not (isinstance(data__syscalls_item__args_item__index, float) and data__syscalls_item__args_item__index.is_integer())) or isinstance(data__syscalls_item__args_item__index, bool):
                                                raise Rejected
                                            if isinstance(data__syscalls_item__args_item__index, (int, float)) and (not isinstance(data__syscalls_item__args_item__index, bool)):
                                                if data__syscalls_item__args_item__index < 0:
                                                    raise Rejected
                                                if data__syscalls_item__args_item__index > 5:
                                                    raise Rejected
                                        if 'value' in data__syscalls_item__args_item_keys:
                                            data__syscalls_item__args_item_keys.remove('value')
                                            data__syscalls_item__args_item__value = data__syscalls_item__args_item['value']
                                            uint64(data__syscalls_item__args_item__value)
                                        if 'valueTwo' in data__syscalls_item__args_item_keys:
                                            data__syscalls_item__args_item_keys.remove('valueTwo')
                                            data__syscalls_item__args_item__valueTwo = data__syscalls_item__args_item['valueTwo']
                                            uint64(data__syscalls_item__args_item__valueTwo)
                                        if 'op' in data__syscalls_item__args_item_keys:
                                            data__syscalls_item__args_item_keys.remove('op')
                                            data__syscalls_item__args_item__op = data__syscalls_item__args_item['op']
                                            if not (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_NE' or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_LT') or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_LE') or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_EQ') or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_GE') or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_GT') or (isinstance(data__syscalls_item__args_item__op, str) and data__syscalls_item__args_item__op == 'SCMP_CMP_MASKED_EQ')):
                                                raise Rejected
    return data

def uint64(data):
    if not isinstance(data, int) and (not (isinstance(data, float) and data.is_integer())) or isinstance(data, bool):
        raise Rejected
    if isinstance(data, (int, float)) and (not isinstance(data, bool)):
        if data < 0:
            raise Rejected
        if data > 18446744073709551615:
            raise Rejected
    return data

def seccompaction(data):
    if not (isinstance(data, str) and data == 'SCMP_ACT_KILL' or (isinstance(data, str) and data == 'SCMP_ACT_KILL_PROCESS') or (isinstance(data, str) and data == 'SCMP_ACT_KILL_THREAD') or (isinstance(data, str) and data == 'SCMP_ACT_TRAP') or (isinstance(data, str) and data == 'SCMP_ACT_ERRNO') or (isinstance(data, str) and data == 'SCMP_ACT_TRACE') or (isinstance(data, str) and data == 'SCMP_ACT_ALLOW') or (isinstance(data, str) and data == 'SCMP_ACT_LOG') or (isinstance(data, str) and data == 'SCMP_ACT_NOTIFY')):
        raise Rejected
    return data

def uint32(data):
    if not isinstance(data, int) and (not (isinstance(data, float) and data.is_integer())) or isinstance(data, bool):
        raise Rejected
    if isinstance(data, (int, float)) and (not isinstance(data, bool)):
        if data < 0:
            raise Rejected
        if data > 4294967295:
            raise Rejected
    return data

def int64(data):
    if not isinstance(data, int) and (not (isinstance(data, float) and data.is_integer())) or isinstance(data, bool):
        raise Rejected
    if isinstance(data, (int, float)) and (not isinstance(data, bool)):
        if data < -9223372036854775808:
            raise Rejected
        if data > 9223372036854775807:
            raise Rejected
    return data

def name(data):
    if not isinstance(data, str):
        raise Rejected
    if isinstance(data, str):
        data_len = len(data)
        if data_len < 1:
            raise Rejected
    return data

def resources(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_keys = set(data.keys())
        if 'devices' in data_keys:
            data_keys.remove('devices')
            data__devices = data['devices']
            if not isinstance(data__devices, (list, tuple)):
                raise Rejected
            data__devices_is_list = isinstance(data__devices, (list, tuple))
            if data__devices_is_list:
                data__devices_len = len(data__devices)
                for data__devices_x, data__devices_item in enumerate(data__devices):
                    if not isinstance(data__devices_item, dict):
                        raise Rejected
                    data__devices_item_is_dict = isinstance(data__devices_item, dict)
                    if data__devices_item_is_dict:
                        data__devices_item__missing_keys = set(['allow']) - data__devices_item.keys()
                        if data__devices_item__missing_keys:
                            raise Rejected
                        data__devices_item_keys = set(data__devices_item.keys())
                        if 'allow' in data__devices_item_keys:
                            data__devices_item_keys.remove('allow')
                            data__devices_item__allow = data__devices_item['allow']
                            if not isinstance(data__devices_item__allow, bool):
                                raise Rejected
                        if 'type' in data__devices_item_keys:
                            data__devices_item_keys.remove('type')
                            data__devices_item__type = data__devices_item['type']
                            if not (isinstance(data__devices_item__type, str) and data__devices_item__type == '' or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'a') or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'b') or (isinstance(data__devices_item__type, str) and data__devices_item__type == 'c')):
                                raise Rejected
                        if 'major' in data__devices_item_keys:
                            data__devices_item_keys.remove('major')
                            data__devices_item__major = data__devices_item['major']
                            int64(data__devices_item__major)
                        if 'minor' in data__devices_item_keys:
                            data__devices_item_keys.remove('minor')
                            data__devices_item__minor = data__devices_item['minor']
                            int64(data__devices_item__minor)
                        if 'access' in data__devices_item_keys:
                            data__devices_item_keys.remove('access')
                            data__devices_item__access = data__devices_item['access']
                            if not isinstance(data__devices_item__access, str):
                                raise Rejected
        if 'memory' in data_keys:
            data_keys.remove('memory')
            data__memory = data['memory']
            if not isinstance(data__memory, dict):
                raise Rejected
            data__memory_is_dict = isinstance(data__memory, dict)
            if data__memory_is_dict:
                data__memory_keys = set(data__memory.keys())
                if 'limit' in data__memory_keys:
                    data__memory_keys.remove('limit')
                    data__memory__limit = data__memory['limit']
                    int64(data__memory__limit)
                if 'reservation' in data__memory_keys:
                    data__memory_keys.remove('reservation')
                    data__memory__reservation = data__memory['reservation']
                    int64(data__memory__reservation)
                if 'swap' in data__memory_keys:
                    data__memory_keys.remove('swap')
                    data__memory__swap = data__memory['swap']
                    int64(data__memory__swap)
                if 'kernel' in data__memory_keys:
                    data__memory_keys.remove('kernel')
                    data__memory__kernel = data__memory['kernel']
                    int64(data__memory__kernel)
                if 'kernelTCP' in data__memory_keys:
                    data__memory_keys.remove('kernelTCP')
                    data__memory__kernelTCP = data__memory['kernelTCP']
                    int64(data__memory__kernelTCP)
                if 'swappiness' in data__memory_keys:
                    data__memory_keys.remove('swappiness')
                    data__memory__swappiness = data__memory['swappiness']
                    uint64(data__memory__swappiness)
                if 'disableOOMKiller' in data__memory_keys:
                    data__memory_keys.remove('disableOOMKiller')
                    data__memory__disableOOMKiller = data__memory['disableOOMKiller']
                    if not isinstance(data__memory__disableOOMKiller, bool):
                        raise Rejected
                if 'useHierarchy' in data__memory_keys:
                    data__memory_keys.remove('useHierarchy')
                    data__memory__useHierarchy = data__memory['useHierarchy']
                    if not isinstance(data__memory__useHierarchy, bool):
                        raise Rejected
                if 'checkBeforeUpdate' in data__memory_keys:
                    data__memory_keys.remove('checkBeforeUpdate')
                    data__memory__checkBeforeUpdate = data__memory['checkBeforeUpdate']
                    if not isinstance(data__memory__checkBeforeUpdate, bool):
                        raise Rejected
        if 'cpu' in data_keys:
            data_keys.remove('cpu')
            data__cpu = data['cpu']
            if not isinstance(data__cpu, dict):
                raise Rejected
            data__cpu_is_dict = isinstance(data__cpu, dict)
            if data__cpu_is_dict:
                data__cpu_keys = set(data__cpu.keys())
                if 'shares' in data__cpu_keys:
                    data__cpu_keys.remove('shares')
                    data__cpu__shares = data__cpu['shares']
                    uint64(data__cpu__shares)
                if 'quota' in data__cpu_keys:
                    data__cpu_keys.remove('quota')
                    data__cpu__quota = data__cpu['quota']
                    int64(data__cpu__quota)
                if 'burst' in data__cpu_keys:
                    data__cpu_keys.remove('burst')
                    data__cpu__burst = data__cpu['burst']
                    uint64(data__cpu__burst)
                if 'period' in data__cpu_keys:
                    data__cpu_keys.remove('period')
                    data__cpu__period = data__cpu['period']
                    uint64(data__cpu__period)
                if 'realtimeRuntime' in data__cpu_keys:
                    data__cpu_keys.remove('realtimeRuntime')
                    data__cpu__realtimeRuntime = data__cpu['realtimeRuntime']
                    int64(data__cpu__realtimeRuntime)
                if 'realtimePeriod' in data__cpu_keys:
                    data__cpu_keys.remove('realtimePeriod')
                    data__cpu__realtimePeriod = data__cpu['realtimePeriod']
                    uint64(data__cpu__realtimePeriod)
                if 'cpus' in data__cpu_keys:
                    data__cpu_keys.remove('cpus')
                    data__cpu__cpus = data__cpu['cpus']
                    if not isinstance(data__cpu__cpus, str):
                        raise Rejected
                if 'mems' in data__cpu_keys:
                    data__cpu_keys.remove('mems')
                    data__cpu__mems = data__cpu['mems']
                    if not isinstance(data__cpu__mems, str):
                        raise Rejected
                if 'idle' in data__cpu_keys:
                    data__cpu_keys.remove('idle')
                    data__cpu__idle = data__cpu['idle']
                    int64(data__cpu__idle)
        if 'pids' in data_keys:
            data_keys.remove('pids')
            data__pids = data['pids']
            if not isinstance(data__pids, dict):
                raise Rejected
            data__pids_is_dict = isinstance(data__pids, dict)
            if data__pids_is_dict:
                data__pids_keys = set(data__pids.keys())
                if 'limit' in data__pids_keys:
                    data__pids_keys.remove('limit')
                    data__pids__limit = data__pids['limit']
                    int64(data__pids__limit)
        if 'blockIO' in data_keys:
            data_keys.remove('blockIO')
            data__blockIO = data['blockIO']
            if not isinstance(data__blockIO, dict):
                raise Rejected
            data__blockIO_is_dict = isinstance(data__blockIO, dict)
            if data__blockIO_is_dict:
                data__blockIO_keys = set(data__blockIO.keys())
                if 'weight' in data__blockIO_keys:
                    data__blockIO_keys.remove('weight')
                    data__blockIO__weight = data__blockIO['weight']
                    uint16(data__blockIO__weight)
                if 'leafWeight' in data__blockIO_keys:
                    data__blockIO_keys.remove('leafWeight')
                    data__blockIO__leafWeight = data__blockIO['leafWeight']
                    uint16(data__blockIO__leafWeight)
                if 'weightDevice' in data__blockIO_keys:
                    data__blockIO_keys.remove('weightDevice')
                    data__blockIO__weightDevice = data__blockIO['weightDevice']
                    if not isinstance(data__blockIO__weightDevice, (list, tuple)):
                        raise Rejected
                    data__blockIO__weightDevice_is_list = isinstance(data__blockIO__weightDevice, (list, tuple))
                    if data__blockIO__weightDevice_is_list:
                        data__blockIO__weightDevice_len = len(data__blockIO__weightDevice)
                        for data__blockIO__weightDevice_x, data__blockIO__weightDevice_item in enumerate(data__blockIO__weightDevice):
                            weightdevice(data__blockIO__weightDevice_item)
                if 'throttleReadBpsDevice' in data__blockIO_keys:
                    data__blockIO_keys.remove('throttleReadBpsDevice')
                    data__blockIO__throttleReadBpsDevice = data__blockIO['throttleReadBpsDevice']
                    throttledevices(data__blockIO__throttleReadBpsDevice)
                if 'throttleWriteBpsDevice' in data__blockIO_keys:
                    data__blockIO_keys.remove('throttleWriteBpsDevice')
                    data__blockIO__throttleWriteBpsDevice = data__blockIO['throttleWriteBpsDevice']
                    throttledevices(data__blockIO__throttleWriteBpsDevice)
                if 'throttleReadIOPSDevice' in data__blockIO_keys:
                    data__blockIO_keys.remove('throttleReadIOPSDevice')
                    data__blockIO__throttleReadIOPSDevice = data__blockIO['throttleReadIOPSDevice']
                    throttledevices(data__blockIO__throttleReadIOPSDevice)
                if 'throttleWriteIOPSDevice' in data__blockIO_keys:
                    data__blockIO_keys.remove('throttleWriteIOPSDevice')
                    data__blockIO__throttleWriteIOPSDevice = data__blockIO['throttleWriteIOPSDevice']
                    throttledevices(data__blockIO__throttleWriteIOPSDevice)
        if 'hugepageLimits' in data_keys:
            data_keys.remove('hugepageLimits')
            data__hugepageLimits = data['hugepageLimits']
            if not isinstance(data__hugepageLimits, (list, tuple)):
                raise Rejected
            data__hugepageLimits_is_list = isinstance(data__hugepageLimits, (list, tuple))
            if data__hugepageLimits_is_list:
                data__hugepageLimits_len = len(data__hugepageLimits)
                for data__hugepageLimits_x, data__hugepageLimits_item in enumerate(data__hugepageLimits):
                    if not isinstance(data__hugepageLimits_item, dict):
                        raise Rejected
                    data__hugepageLimits_item_is_dict = isinstance(data__hugepageLimits_item, dict)
                    if data__hugepageLimits_item_is_dict:
                        data__hugepageLimits_item__missing_keys = set(['pageSize', 'limit']) - data__hugepageLimits_item.keys()
                        if data__hugepageLimits_item__missing_keys:
                            raise Rejected
                        data__hugepageLimits_item_keys = set(data__hugepageLimits_item.keys())
                        if 'pageSize' in data__hugepageLimits_item_keys:
                            data__hugepageLimits_item_keys.remove('pageSize')
                            data__hugepageLimits_item__pageSize = data__hugepageLimits_item['pageSize']
                            name(data__hugepageLimits_item__pageSize)
                        if 'limit' in data__hugepageLimits_item_keys:
                            data__hugepageLimits_item_keys.remove('limit')
                            data__hugepageLimits_item__limit = data__hugepageLimits_item['limit']
                            uint64(data__hugepageLimits_item__limit)
        if 'network' in data_keys:
            data_keys.remove('network')
            data__network = data['network']
            if not isinstance(data__network, dict):
                raise Rejected
            data__network_is_dict = isinstance(data__network, dict)
            if data__network_is_dict:
                data__network_keys = set(data__network.keys())
                if 'classID' in data__network_keys:
                    data__network_keys.remove('classID')
                    data__network__classID = data__network['classID']
                    uint32(data__network__classID)
                if 'priorities' in data__network_keys:
                    data__network_keys.remove('priorities')
                    data__network__priorities = data__network['priorities']
                    if not isinstance(data__network__priorities, (list, tuple)):
                        raise Rejected
                    data__network__priorities_is_list = isinstance(data__network__priorities, (list, tuple))
                    if data__network__priorities_is_list:
                        data__network__priorities_len = len(data__network__priorities)
                        for data__network__priorities_x, data__network__priorities_item in enumerate(data__network__priorities):
                            if not isinstance(data__network__priorities_item, dict):
                                raise Rejected
                            data__network__priorities_item_is_dict = isinstance(data__network__priorities_item, dict)
                            if data__network__priorities_item_is_dict:
                                data__network__priorities_item__missing_keys = set(['name', 'priority']) - data__network__priorities_item.keys()
                                if data__network__priorities_item__missing_keys:
                                    raise Rejected
                                data__network__priorities_item_keys = set(data__network__priorities_item.keys())
                                if 'name' in data__network__priorities_item_keys:
                                    data__network__priorities_item_keys.remove('name')
                                    data__network__priorities_item__name = data__network__priorities_item['name']
                                    name(data__network__priorities_item__name)
                                if 'priority' in data__network__priorities_item_keys:
                                    data__network__priorities_item_keys.remove('priority')
                                    data__network__priorities_item__priority = data__network__priorities_item['priority']
                                    uint32(data__network__priorities_item__priority)
        if 'rdma' in data_keys:
            data_keys.remove('rdma')
            data__rdma = data['rdma']
            if not isinstance(data__rdma, dict):
                raise Rejected
            data__rdma_is_dict = isinstance(data__rdma, dict)
            if data__rdma_is_dict:
                data__rdma_keys = set(data__rdma.keys())
                for data__rdma_key in data__rdma_keys:
                    if data__rdma_key not in []:
                        data__rdma_value = data__rdma.get(data__rdma_key)
                        if not isinstance(data__rdma_value, dict):
                            raise Rejected
                        data__rdma_value_is_dict = isinstance(data__rdma_value, dict)
                        if data__rdma_value_is_dict:
                            data__rdma_value_keys = set(data__rdma_value.keys())
                            if 'hcaHandles' in data__rdma_value_keys:
                                data__rdma_value_keys.remove('hcaHandles')
                                data__rdma_value__hcaHandles = data__rdma_value['hcaHandles']
                                uint32(data__rdma_value__hcaHandles)
                            if 'hcaObjects' in data__rdma_value_keys:
                                data__rdma_value_keys.remove('hcaObjects')
                                data__rdma_value__hcaObjects = data__rdma_value['hcaObjects']
                                uint32(data__rdma_value__hcaObjects)
        if 'unified' in data_keys:
            data_keys.remove('unified')
            data__unified = data['unified']
            stringmap(data__unified)
    return data

def throttledevices(data):
    if not isinstance(data, (list, tuple)):
        raise Rejected
    data_is_list = isinstance(data, (list, tuple))
    if data_is_list:
        data_len = len(data)
        for data_x, data_item in enumerate(data):
            if not isinstance(data_item, dict):
                raise Rejected
            data_item_is_dict = isinstance(data_item, dict)
            if data_item_is_dict:
                data_item__missing_keys = set(['major', 'minor', 'rate']) - data_item.keys()
                if data_item__missing_keys:
                    raise Rejected
                data_item_keys = set(data_item.keys())
                if 'major' in data_item_keys:
                    data_item_keys.remove('major')
                    data_item__major = data_item['major']
                    int64(data_item__major)
                if 'minor' in data_item_keys:
                    data_item_keys.remove('minor')
                    data_item__minor = data_item['minor']
                    int64(data_item__minor)
                if 'rate' in data_item_keys:
                    data_item_keys.remove('rate')
                    data_item__rate = data_item['rate']
                    uint64(data_item__rate)
    return data

def weightdevice(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['major', 'minor']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'major' in data_keys:
            data_keys.remove('major')
            data__major = data['major']
            int64(data__major)
        if 'minor' in data_keys:
            data_keys.remove('minor')
            data__minor = data['minor']
            int64(data__minor)
        if 'weight' in data_keys:
            data_keys.remove('weight')
            data__weight = data['weight']
            uint16(data__weight)
        if 'leafWeight' in data_keys:
            data_keys.remove('leafWeight')
            data__leafWeight = data['leafWeight']
            uint16(data__leafWeight)
    return data

def uint16(data):
    if not isinstance(data, int) and (not (isinstance(data, float) and data.is_integer())) or isinstance(data, bool):
        raise Rejected
    if isinstance(data, (int, float)) and (not isinstance(data, bool)):
        if data < 0:
            raise Rejected
        if data > 65535:
            raise Rejected
    return data

def idmappings(data):
    if not isinstance(data, (list, tuple)):
        raise Rejected
    data_is_list = isinstance(data, (list, tuple))
    if data_is_list:
        data_len = len(data)
        for data_x, data_item in enumerate(data):
            idmapping(data_item)
    return data

def idmapping(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['containerID', 'hostID', 'size']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'containerID' in data_keys:
            data_keys.remove('containerID')
            data__containerID = data['containerID']
            uint32(data__containerID)
        if 'hostID' in data_keys:
            data_keys.remove('hostID')
            data__hostID = data['hostID']
            uint32(data__hostID)
        if 'size' in data_keys:
            data_keys.remove('size')
            data__size = data['size']
            uint32(data__size)
    return data

def stringmap(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_keys = set(data.keys())
        for data_key in data_keys:
            if data_key not in []:
                data_value = data.get(data_key)
                if not isinstance(data_value, str):
                    raise Rejected
    return data

def hooks(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_keys = set(data.keys())
        if 'prestart' in data_keys:
            data_keys.remove('prestart')
            data__prestart = data['prestart']
            hooklist(data__prestart)
        if 'createRuntime' in data_keys:
            data_keys.remove('createRuntime')
            data__createRuntime = data['createRuntime']
            hooklist(data__createRuntime)
        if 'createContainer' in data_keys:
            data_keys.remove('createContainer')
            data__createContainer = data['createContainer']
            hooklist(data__createContainer)
        if 'startContainer' in data_keys:
            data_keys.remove('startContainer')
            data__startContainer = data['startContainer']
            hooklist(data__startContainer)
        if 'poststart' in data_keys:
            data_keys.remove('poststart')
            data__poststart = data['poststart']
            hooklist(data__poststart)
        if 'poststop' in data_keys:
            data_keys.remove('poststop')
            data__poststop = data['poststop']
            hooklist(data__poststop)
    return data

def hooklist(data):
    if not isinstance(data, (list, tuple)):
        raise Rejected
    data_is_list = isinstance(data, (list, tuple))
    if data_is_list:
        data_len = len(data)
        for data_x, data_item in enumerate(data):
            hook(data_item)
    return data

def hook(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['path']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'path' in data_keys:
            data_keys.remove('path')
            data__path = data['path']
            name(data__path)
        if 'args' in data_keys:
            data_keys.remove('args')
            data__args = data['args']
            strings(data__args)
        if 'env' in data_keys:
            data_keys.remove('env')
            data__env = data['env']
            strings(data__env)
        if 'timeout' in data_keys:
            data_keys.remove('timeout')
            data__timeout = data['timeout']
            if not isinstance(data__timeout, int) and (not (isinstance(data__timeout, float) and data__timeout.is_integer())) or isinstance(data__timeout, bool):
                raise Rejected
            if isinstance(data__timeout, (int, float)) and (not isinstance(data__timeout, bool)):
                if data__timeout < 1:
                    raise Rejected
                if data__timeout > 9223372036854775807:
                    raise Rejected
    return data

def mount(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['destination']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'destination' in data_keys:
            data_keys.remove('destination')
            data__destination = data['destination']
            name(data__destination)
        if 'type' in data_keys:
            data_keys.remove('type')
            data__type = data['type']
            if not isinstance(data__type, str):
                raise Rejected
        if 'source' in data_keys:
            data_keys.remove('source')
            data__source = data['source']
            if not isinstance(data__source, str):
                raise Rejected
        if 'options' in data_keys:
            data_keys.remove('options')
            data__options = data['options']
            strings(data__options)
        if 'uidMappings' in data_keys:
            data_keys.remove('uidMappings')
            data__uidMappings = data['uidMappings']
            idmappings(data__uidMappings)
        if 'gidMappings' in data_keys:
            data_keys.remove('gidMappings')
            data__gidMappings = data['gidMappings']
            idmappings(data__gidMappings)
    return data

def root(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['path']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'path' in data_keys:
            data_keys.remove('path')
            data__path = data['path']
            name(data__path)
        if 'readonly' in data_keys:
            data_keys.remove('readonly')
            data__readonly = data['readonly']
            if not isinstance(data__readonly, bool):
                raise Rejected
    return data

def process(data):
    if not isinstance(data, dict):
        raise Rejected
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['args', 'cwd']) - data.keys()
        if data__missing_keys:
            raise Rejected
        data_keys = set(data.keys())
        if 'terminal' in data_keys:
            data_keys.remove('terminal')
            data__terminal = data['terminal']
            if not isinstance(data__terminal, bool):
                raise Rejected
        if 'consoleSize' in data_keys:
            data_keys.remove('consoleSize')
            data__consoleSize = data['consoleSize']
            if not isinstance(data__consoleSize, dict):
                raise Rejected
            data__consoleSize_is_dict = isinstance(data__consoleSize, dict)
            if data__consoleSize_is_dict:
                data__consoleSize__missing_keys = set(['height', 'width']) - data__consoleSize.keys()
                if data__consoleSize__missing_keys:
                    raise Rejected
                data__consoleSize_keys = set(data__consoleSize.keys())
                if 'height' in data__consoleSize_keys:
                    data__consoleSize_keys.remove('height')
                    data__consoleSize__height = data__consoleSize['height']
                    uint16(data__consoleSize__height)
                if 'width' in data__consoleSize_keys:
                    data__consoleSize_keys.remove('width')
                    data__consoleSize__width = data__consoleSize['width']
                    uint16(data__consoleSize__width)
        if 'user' in data_keys:
            data_keys.remove('user')
            data__user = data['user']
            if not isinstance(data__user, dict):
                raise Rejected
            data__user_is_dict = isinstance(data__user, dict)
            if data__user_is_dict:
                data__user_keys = set(data__user.keys())
                if 'uid' in data__user_keys:
                    data__user_keys.remove('uid')
                    data__user__uid = data__user['uid']
                    uint32(data__user__uid)
                if 'gid' in data__user_keys:
                    data__user_keys.remove('gid')
                    data__user__gid = data__user['gid']
                    uint32(data__user__gid)
                if 'umask' in data__user_keys:
                    data__user_keys.remove('umask')
                    data__user__umask = data__user['umask']
                    if not isinstance(data__user__umask, int) and (not (isinstance(data__user__umask, float) and data__user__umask.is_integer())) or isinstance(data__user__umask, bool):
                        raise Rejected
                    if isinstance(data__user__umask, (int, float)) and (not isinstance(data__user__umask, bool)):
                        if data__user__umask < 0:
                            raise Rejected
                        if data__user__umask > 511:
                            raise Rejected
                if 'additionalGids' in data__user_keys:
                    data__user_keys.remove('additionalGids')
                    data__user__additionalGids = data__user['additionalGids']
                    if not isinstance(data__user__additionalGids, (list, tuple)):
                        raise Rejected
                    data__user__additionalGids_is_list = isinstance(data__user__additionalGids, (list, tuple))
                    if data__user__additionalGids_is_list:
                        data__user__additionalGids_len = len(data__user__additionalGids)
                        for data__user__additionalGids_x, data__user__additionalGids_item in enumerate(data__user__additionalGids):
                            uint32(data__user__additionalGids_item)
                if 'username' in data__user_keys:
                    data__user_keys.remove('username')
                    data__user__username = data__user['username']
                    if not isinstance(data__user__username, str):
                        raise Rejected
        if 'args' in data_keys:
            data_keys.remove('args')
            data__args = data['args']
            if not isinstance(data__args, (list, tuple)):
                raise Rejected
            data__args_is_list = isinstance(data__args, (list, tuple))
            if data__args_is_list:
                data__args_len = len(data__args)
                if data__args_len < 1:
                    raise Rejected
                for data__args_x, data__args_item in enumerate(data__args):
                    if not isinstance(data__args_item, str):
                        raise Rejected
        if 'env' in data_keys:
            data_keys.remove('env')
            data__env = data['env']
            strings(data__env)
        if 'cwd' in data_keys:
            data_keys.remove('cwd')
            data__cwd = data['cwd']
            name(data__cwd)
        if 'capabilities' in data_keys:
            data_keys.remove('capabilities')
            data__capabilities = data['capabilities']
            if not isinstance(data__capabilities, dict):
                raise Rejected
            data__capabilities_is_dict = isinstance(data__capabilities, dict)
            if data__capabilities_is_dict:
                data__capabilities_keys = set(data__capabilities.keys())
                if 'bounding' in data__capabilities_keys:
                    data__capabilities_keys.remove('bounding')
                    data__capabilities__bounding = data__capabilities['bounding']
                    strings(data__capabilities__bounding)
                if 'effective' in data__capabilities_keys:
                    data__capabilities_keys.remove('effective')
                    data__capabilities__effective = data__capabilities['effective']
                    strings(data__capabilities__effective)
                if 'inheritable' in data__capabilities_keys:
                    data__capabilities_keys.remove('inheritable')
                    data__capabilities__inheritable = data__capabilities['inheritable']
                    strings(data__capabilities__inheritable)
                if 'permitted' in data__capabilities_keys:
                    data__capabilities_keys.remove('permitted')
                    data__capabilities__permitted = data__capabilities['permitted']
                    strings(data__capabilities__permitted)
                if 'ambient' in data__capabilities_keys:
                    data__capabilities_keys.remove('ambient')
                    data__capabilities__ambient = data__capabilities['ambient']
                    strings(data__capabilities__ambient)
        if 'rlimits' in data_keys:
            data_keys.remove('rlimits')
            data__rlimits = data['rlimits']
            if not isinstance(data__rlimits, (list, tuple)):
                raise Rejected
            data__rlimits_is_list = isinstance(data__rlimits, (list, tuple))
            if data__rlimits_is_list:
                data__rlimits_len = len(data__rlimits)
                for data__rlimits_x, data__rlimits_item in enumerate(data__rlimits):
                    if not isinstance(data__rlimits_item, dict):
                        raise Rejected
                    data__rlimits_item_is_dict = isinstance(data__rlimits_item, dict)
                    if data__rlimits_item_is_dict:
                        data__rlimits_item__missing_keys = set(['type', 'soft', 'hard']) - data__rlimits_item.keys()
                        if data__rlimits_item__missing_keys:
                            raise Rejected
                        data__rlimits_item_keys = set(data__rlimits_item.keys())
                        if 'type' in data__rlimits_item_keys:
                            data__rlimits_item_keys.remove('type')
                            data__rlimits_item__type = data__rlimits_item['type']
                            name(data__rlimits_item__type)
                        if 'soft' in data__rlimits_item_keys:
                            data__rlimits_item_keys.remove('soft')
                            data__rlimits_item__soft = data__rlimits_item['soft']
                            uint64(data__rlimits_item__soft)
                        if 'hard' in data__rlimits_item_keys:
                            data__rlimits_item_keys.remove('hard')
                            data__rlimits_item__hard = data__rlimits_item['hard']
                            uint64(data__rlimits_item__hard)
        if 'noNewPrivileges' in data_keys:
            data_keys.remove('noNewPrivileges')
            data__noNewPrivileges = data['noNewPrivileges']
            if not isinstance(data__noNewPrivileges, bool):
                raise Rejected
        if 'apparmorProfile' in data_keys:
            data_keys.remove('apparmorProfile')
            data__apparmorProfile = data['apparmorProfile']
            if not isinstance(data__apparmorProfile, str):
                raise Rejected
        if 'oomScoreAdj' in data_keys:
            data_keys.remove('oomScoreAdj')
            data__oomScoreAdj = data['oomScoreAdj']
            if not isinstance(data__oomScoreAdj, int) and (not (isinstance(data__oomScoreAdj, float) and data__oomScoreAdj.is_integer())) or isinstance(data__oomScoreAdj, bool):
                raise Rejected
            if isinstance(data__oomScoreAdj, (int, float)) and (not isinstance(data__oomScoreAdj, bool)):
                if data__oomScoreAdj < -1000:
                    raise Rejected
                if data__oomScoreAdj > 1000:
                    raise Rejected
        if 'selinuxLabel' in data_keys:
            data_keys.remove('selinuxLabel')
            data__selinuxLabel = data['selinuxLabel']
            if not isinstance(data__selinuxLabel, str):
                raise Rejected
        if 'scheduler' in data_keys:
            data_keys.remove('scheduler')
            data__scheduler = data['scheduler']
            if not isinstance(data__scheduler, dict):
                raise Rejected
            data__scheduler_is_dict = isinstance(data__scheduler, dict)
            if data__scheduler_is_dict:
                data__scheduler__missing_keys = set(['policy']) - data__scheduler.keys()
                if data__scheduler__missing_keys:
                    raise Rejected
                data__scheduler_keys = set(data__scheduler.keys())
                if 'policy' in data__scheduler_keys:
                    data__scheduler_keys.remove('policy')
                    data__scheduler__policy = data__scheduler['policy']
                    if not (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_OTHER' or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_FIFO') or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_RR') or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_BATCH') or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_ISO') or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_IDLE') or (isinstance(data__scheduler__policy, str) and data__scheduler__policy == 'SCHED_DEADLINE')):
                        raise Rejected
                if 'nice' in data__scheduler_keys:
                    data__scheduler_keys.remove('nice')
                    data__scheduler__nice = data__scheduler['nice']
                    if not isinstance(data__scheduler__nice, int) and (not (isinstance(data__scheduler__nice, float) and data__scheduler__nice.is_integer())) or isinstance(data__scheduler__nice, bool):
                        raise Rejected
                    if isinstance(data__scheduler__nice, (int, float)) and (not isinstance(data__scheduler__nice, bool)):
                        if data__scheduler__nice < -20:
                            raise Rejected
                        if data__scheduler__nice > 19:
                            raise Rejected
                if 'priority' in data__scheduler_keys:
                    data__scheduler_keys.remove('priority')
                    data__scheduler__priority = data__scheduler['priority']
                    int32(data__scheduler__priority)
                if 'flags' in data__scheduler_keys:
                    data__scheduler_keys.remove('flags')
                    data__scheduler__flags = data__scheduler['flags']
                    if not isinstance(data__scheduler__flags, (list, tuple)):
                        raise Rejected
                    data__scheduler__flags_is_list = isinstance(data__scheduler__flags, (list, tuple))
                    if data__scheduler__flags_is_list:
                        data__scheduler__flags_len = len(data__scheduler__flags)
                        for data__scheduler__flags_x, data__scheduler__flags_item in enumerate(data__scheduler__flags):
                            if not (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_RESET_ON_FORK' or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_RECLAIM') or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_DL_OVERRUN') or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_KEEP_POLICY') or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_KEEP_PARAMS') or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_UTIL_CLAMP_MIN') or (isinstance(data__scheduler__flags_item, str) and data__scheduler__flags_item == 'SCHED_FLAG_UTIL_CLAMP_MAX')):
                                raise Rejected
                if 'runtime' in data__scheduler_keys:
                    data__scheduler_keys.remove('runtime')
                    data__scheduler__runtime = data__scheduler['runtime']
                    uint64(data__scheduler__runtime)
                if 'deadline' in data__scheduler_keys:
                    data__scheduler_keys.remove('deadline')
                    data__scheduler__deadline = data__scheduler['deadline']
                    uint64(data__scheduler__deadline)
                if 'period' in data__scheduler_keys:
                    data__scheduler_keys.remove('period')
                    data__scheduler__period = data__scheduler['period']
                    uint64(data__scheduler__period)
        if 'ioPriority' in data_keys:
            data_keys.remove('ioPriority')
            data__ioPriority = data['ioPriority']
            if not isinstance(data__ioPriority, dict):
                raise Rejected
            data__ioPriority_is_dict = isinstance(data__ioPriority, dict)
            if data__ioPriority_is_dict:
                data__ioPriority__missing_keys = set(['class']) - data__ioPriority.keys()
                if data__ioPriority__missing_keys:
                    raise Rejected
                data__ioPriority_keys = set(data__ioPriority.keys())
                if 'class' in data__ioPriority_keys:
                    data__ioPriority_keys.remove('class')
                    data__ioPriority__class = data__ioPriority['class']
                    if not (isinstance(data__ioPriority__class, str) and data__ioPriority__class == 'IOPRIO_CLASS_RT' or (isinstance(data__ioPriority__class, str) and data__ioPriority__class == 'IOPRIO_CLASS_BE') or (isinstance(data__ioPriority__class, str) and data__ioPriority__class == 'IOPRIO_CLASS_IDLE')):
                        raise Rejected
                if 'priority' in data__ioPriority_keys:
                    data__ioPriority_keys.remove('priority')
                    data__ioPriority__priority = data__ioPriority['priority']
                    if not isinstance(data__ioPriority__priority, int) and (not (isinstance(data__ioPriority__priority, float) and data__ioPriority__priority.is_integer())) or isinstance(data__ioPriority__priority, bool):
                        raise Rejected
                    if isinstance(data__ioPriority__priority, (int, float)) and (not isinstance(data__ioPriority__priority, bool)):
                        if data__ioPriority__priority < 0:
                            raise Rejected
                        if data__ioPriority__priority > 7:
                            raise Rejected
        if 'execCPUAffinity' in data_keys:
            data_keys.remove('execCPUAffinity')
            data__execCPUAffinity = data['execCPUAffinity']
            if not isinstance(data__execCPUAffinity, dict):
                raise Rejected
            data__execCPUAffinity_is_dict = isinstance(data__execCPUAffinity, dict)
            if data__execCPUAffinity_is_dict:
                data__execCPUAffinity_keys = set(data__execCPUAffinity.keys())
                if 'initial' in data__execCPUAffinity_keys:
                    data__execCPUAffinity_keys.remove('initial')
                    data__execCPUAffinity__initial = data__execCPUAffinity['initial']
                    if not isinstance(data__execCPUAffinity__initial, str):
                        raise Rejected
                if 'final' in data__execCPUAffinity_keys:
                    data__execCPUAffinity_keys.remove('final')
                    data__execCPUAffinity__final = data__execCPUAffinity['final']
                    if not isinstance(data__execCPUAffinity__final, str):
                        raise Rejected
    return data

def int32(data):
    if not isinstance(data, int) and (not (isinstance(data, float) and data.is_integer())) or isinstance(data, bool):
        raise Rejected
    if isinstance(data, (int, float)) and (not isinstance(data, bool)):
        if data < -2147483648:
            raise Rejected
        if data > 2147483647:
            raise Rejected
    return data
