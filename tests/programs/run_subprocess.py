"""Children: pipes, statuses, environment, directories, timeouts, many at once."""

import functools
import os
import signal
import subprocess
import sys

run = functools.partial(subprocess.run, check=False)
print(run(["cat"], input=b"x" * 300_000, capture_output=True).stdout.count(b"x"))
print(run("echo one; echo two >&2; exit 3", shell=True, stderr=subprocess.STDOUT, stdout=subprocess.PIPE))
print(subprocess.check_output([sys.executable, "-c", "import sys; print(sys.argv, input())", "a", ""], input=b"in"))
print(run(["/bin/sh", "-c", "pwd; echo $NAME"], cwd="/usr", env={"NAME": "value"}, capture_output=True).stdout)
print(run(["sleep", "5"], timeout=None, preexec_fn=lambda: os.execvp("true", ["true"])).returncode)
try:
    run(["sleep", "20"], timeout=0.1)
except subprocess.TimeoutExpired as error:
    print("timeout", error.cmd)
for program in ("/no/such/program", "/etc", "/etc/passwd"):
    try:
        run([program])
    except OSError as error:
        print(type(error).__name__, error)
with subprocess.Popen(["sleep", "20"]) as child:
    child.send_signal(signal.SIGTERM)
    print("terminated", child.wait())
with subprocess.Popen(["sh", "-c", "kill -STOP $$; exit 6"]) as child:
    print("stopped", os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1]))
    child.send_signal(signal.SIGCONT)
    print("continued", child.wait())
many = [subprocess.Popen(["sh", "-c", f"exit {number}"]) for number in range(20)]
print([child.wait() for child in many])
first = subprocess.Popen(["seq", "100000"], stdout=subprocess.PIPE)
last = subprocess.Popen(["tail", "-n1"], stdin=first.stdout, stdout=subprocess.PIPE)
first.stdout.close()
print(last.communicate()[0], first.wait())
print(os.posix_spawn("/bin/echo", ["echo"], os.environ) > 0, os.wait()[1])
pid = os.fork()
if pid == 0:
    os._exit(11)
print("fork", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
