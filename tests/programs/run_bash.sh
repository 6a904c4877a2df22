# Process numbers are left out: the sandbox's own threads use some up.
# What bash adds: process substitution, arrays, coprocesses, PIPESTATUS, wait -n, here-strings, select traps.
diff <(seq 1 5) <(seq 1 2 5) ; echo "diff: $?"
a=(one two "three four"); printf '[%s]' "${a[@]}"; echo " ${#a[@]}"
declare -A map=([x]=1 [y]=2); echo "${map[x]}${map[y]}"
false | true | (exit 7); echo "${PIPESTATUS[*]}"
coproc CAT { while read -r l; do echo "coproc $l"; done; }
echo hello >&"${CAT[1]}"; read -r reply <&"${CAT[0]}"; echo "$reply"
eval "exec ${CAT[1]}>&-"; wait
(exit 6) & wait -n $!; echo "wait -n: $?"
tr a-z A-Z <<< "here string"
trap 'echo "CHLD seen" > chld' CHLD; /bin/true; trap - CHLD; cat chld
trap 'echo "ERR at $LINENO"' ERR; false; trap - ERR
set -o pipefail; false | true; echo "pipefail $?"
sleep 5 & p=$!; kill -KILL $p; wait $p 2> killed; echo "killed: $?"; sed 's/ [0-9]* Killed/ PID Killed/' killed
time_out=0; read -r -t 0.05 nothing < <(sleep 0.5) || time_out=$?; [ $time_out -gt 128 ] && echo "read timed out"
for i in {1..40}; do :& done; wait; echo "forty jobs"
printf '%s\n' {a..c}{1..2} | paste -s -d, -
[[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo "${BASH_REMATCH[2]}${BASH_REMATCH[1]}"
kill -TERM $BASHPID & wait $!; echo "$?"
ulimit -n; exec -a renamed bash -c 'echo $0; kill -9 $$; exit 3'
