"""The OCI side: config.json, bundles, container state, namespaces, mounts, devices, process attributes.

Nothing is imported here: a verb pays only for the modules it uses.
"""
