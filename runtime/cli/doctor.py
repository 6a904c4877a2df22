"""`pysandbox doctor`: see `pysandbox.runtime.doctor`. Exit status 1 when containers cannot run."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(usage="[--json]", flags=(Flag("--json", "", "one JSON object with all findings"),), count=(0, 0))


def main(call: Call) -> int:
    import sys

    from pysandbox.runtime import doctor

    findings = doctor.examine()
    healthy = all(finding.status != doctor.FAIL for finding in findings)
    if call.values["--json"]:
        import json

        out = {"ok": healthy, "findings": [dict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(out, indent=1) + "\n")
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            sys.stdout.write(f"{finding.status.ljust(4)}  {finding.name.ljust(width)}  {finding.detail}\n")
            if finding.mend:
                sys.stdout.write(f"{' ' * (width + 8)}-> {finding.mend}\n")
        sys.stdout.write(
            "containers can run here\n" if healthy else "containers cannot run here until the failures are mended\n"
        )
    return 0 if healthy else 1
