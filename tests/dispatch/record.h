/* Forced in front of every file under test: host.h's inline system call becomes a function of fake.c. */
#define host6 host6_of_the_machine
#include "../../runtime/monitor/host.h"
#undef host6
long host6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f);
