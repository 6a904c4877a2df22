# fork, pipes, signals, sockets, sorting, files.
use strict; use warnings; use Socket; use POSIX ":sys_wait_h"; use Time::HiRes qw(sleep alarm);
$| = 1;
my %count; $count{$_ % 17}++ for 1 .. 100_000;
print join(",", map { "$_=$count{$_}" } sort { $a <=> $b } keys %count), "\n";
for my $n (1 .. 5) { my $pid = fork(); exit($n) if !$pid; waitpid($pid, 0); print "child ", $? >> 8, "\n"; }
open(my $in, "-|", "seq 1 1000 | tail -n 2") or die; print while <$in>; close $in;
open(my $out, "|-", "sort -n") or die; print $out "$_\n" for (3, 1, 2); close $out;
print "status ", system("exit 9") >> 8, " ", `echo back`, "";
local $SIG{ALRM} = sub { die "alarm\n" };
eval { alarm(0.05); sleep 20; }; print "got $@";
my $hup = 0; $SIG{HUP} = sub { $hup++ }; kill 'HUP', $$ for 1 .. 10; print "hup $hup\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;
syswrite $a, "pair"; sysread $b, my $text, 10; print "$text\n";
open(my $file, "+>", "/tmp/perl") or die; print $file "line $_\n" for 1 .. 10_000; seek $file, 0, 0;
my $lines = () = <$file>; print "lines $lines ", -s "/tmp/perl", "\n";
print "regex ", scalar(() = ("abc" x 10_000) =~ /b(?=c)/g), "\n";
my $sum = unpack("%32C*", pack("C*", map { $_ & 255 } 1 .. 50_000)); print "sum $sum\n";
opendir(my $dir, "/proc/self/fd") or die; print "directory ", (readdir($dir) > 0 ? "read" : "empty"), "\n";
warn "to stderr\n";
exit 12;
