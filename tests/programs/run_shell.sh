# What every POSIX shell can do: pipelines, substitution, here-documents, jobs, traps. Run by busybox sh, dash and bash.
echo "arguments: $# $1"
seq 1 200 | sort -rn | head -n 3 | tr '\n' ' '; echo
x=$(echo outer $(echo inner; exit 4)); echo "$x, status $?"
cat <<END | sed 's/^/> /'
here $(echo document) of $x
	with a tab
END
cat <<'END'
nothing $expanded `here`
END

# Jobs: each end is waited for and its status seen.
(sleep 0.1; exit 3) & first=$!
(exit 5) & second=$!
wait $first; echo "first: $?"
wait $second; echo "second: $?"
for i in 1 2 3 4 5 6 7 8; do echo "job $i" > job.$i & done; wait
cat job.*
(kill -TERM $(sh -c 'echo $PPID'); sleep 5); echo "killed: $?"

# Traps, in this shell and in children, and signals that end a pipeline.
trap 'echo got USR1' USR1
kill -USR1 $$
trap '' TERM; kill -TERM $$; echo "TERM ignored"
trap - TERM
sh -c 'trap "echo child got TERM; exit 9" TERM; kill -TERM $$; while :; do sleep 0.01; done'; echo "child: $?"
yes | head -n 2
(trap 'echo subshell ends' EXIT; :)

# Descriptors.
exec 3> out; echo one >&3; echo two >&3; exec 3>&-; cat < out
{ echo to stderr >&2; echo to stdout; } 2>&1 | sort
echo error >&2
cat nothing-there 2>/dev/null || echo "no such file: $?"
read line < out; echo "read $line"
mkfifo fifo; echo through a fifo > fifo & cat fifo; wait
test -p fifo && test -d /tmp && echo tests
i=0; while [ $i -lt 50 ]; do i=$((i + $(echo 1))); done; echo "loop $i"
cat
umask 027; touch masked; ls -l masked | cut -c 1-10
cd /; pwd
nosuchcommand 2>/dev/null; echo "not found: $?"
trap 'echo the end' EXIT
exit 42
