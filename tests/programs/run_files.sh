# 10,000 files: made, listed, packed, unpacked, compared.
set -e
mkdir tree; cd tree
perl -e 'for my $d (0 .. 99) { mkdir "d$d"; for my $f (0 .. 99) { open F, ">", "d$d/f$f" or die; print F "$d $f\n" x ($f + 1); close F } }'
cd ..
find tree -type f | wc -l
find tree -type f -name 'f7*' -size -2k -newer /proc/version | sort | md5sum
find tree -type f | sort -R | sort -t f -k 2n | tail -n 3
find tree -type f -print0 | sort -z | xargs -0 cat | sort -k 2n -k 1n | uniq -c | tail -n 3
tar --sort=name --mtime=@0 -cf a.tar tree; md5sum < a.tar
tar --sort=name --mtime=@0 -czf a.tar.gz tree
mkdir again; tar -xzf a.tar.gz -C again; diff -r tree again/tree && echo same
grep -rl '^42 99$' again | sort
du -s --apparent-size -b tree/d1/f1; ls -lR --time-style=+ tree | grep -v '^total' | md5sum
find again -type f -name '*1' -delete; find again -type f | wc -l
mv again/tree/d5 again/moved; cp -a again/moved again/copy; find again/copy | wc -l
rm -rf tree again; ls
