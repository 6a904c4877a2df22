# A repository's life, dates and names fixed so that even the hashes are equal.
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=c GIT_COMMITTER_EMAIL=c@example.org
export GIT_AUTHOR_DATE="2020-01-01T00:00:00Z" GIT_COMMITTER_DATE="2020-01-01T00:00:00Z"
git init -b main repository; cd repository
for i in $(seq 1 40); do mkdir -p d$((i % 5)); seq 1 $((i * 50)) > d$((i % 5))/file$i; done
git add .; git commit -q -m first; git log --stat | tail -n 3
git checkout -q -b side; echo more >> d1/file1; git commit -q -am side
git checkout -q main; echo less > d2/file2; git commit -q -am main
git merge -q --no-edit side; git log --format='%H %P %s'
git gc -q; git fsck --strict 2>&1; git count-objects -v | grep -v size
git clone -q . ../copy; git -C ../copy rev-parse HEAD; git -C ../copy status --short | wc -l
git archive HEAD | tar -tf - | wc -l; git diff HEAD~1 --stat | cat
git rev-parse nothing || echo "status $?" >&2
