/* The table itself: rows of table.h turned into data. */
#include "row.h"
#include "handlers.h"

#define INT {A_INT, 0, 0, 0, 0}
#define PID {A_PID, 0, 0, 0, 0}
#define CLOCK {A_CLOCK, 0, 0, 0, 0}
#define SIG INT
#define UINT {A_UINT, 0, 0, 0, 0}
#define FLAGS UINT
#define MODE UINT
#define LONG {A_LONG, 0, 0, 0, 0}
#define SIZE LONG
#define OFFSET LONG
#define ADDR {A_ADDR, 0, 0, 0, 0}
#define RANGE(len) {A_RANGE, len, 0, 0, 0}
#define FD {A_FD, 0, 0, 0, 0}
#define FDOPT {A_FDOPT, 0, 0, 0, 0}
#define MAPFD(flags) {A_MAPFD, flags, 0, 0, 0}
#define ATFD {A_ATFD, 0, 0, 0, 0}
#define PATH {A_PATH, 0, DIR_IN, 0, 0}
#define PATHN {A_PATHN, 0, DIR_IN, 0, 0}
#define STR {A_STR, 0, DIR_IN, 0, 0}
#define STRN {A_STRN, 0, DIR_IN, 0, 0}
#define IN(n) {A_PTR, 0, DIR_IN, 0, n}
#define OUT(n) {A_PTR, 0, DIR_OUT, 0, n}
#define INOUT(n) {A_PTR, 0, DIR_INOUT, 0, n}
#define PTR(n) INOUT(n)
#define INOUT_SET {A_NEST, 0, DIR_INOUT, 0, 0}
#define BUF_IN(len) {A_BUF, len, DIR_IN, 0, 0}
#define BUF_OUT(len) {A_BUF, len, DIR_OUT, 0, 0}
#define BUF8_IN(len) {A_BUF, len, DIR_IN, 0, 8}
#define BUF8_OUT(len) {A_BUF, len, DIR_OUT, 0, 8}
#define ARR_IN(n, count) {A_ARR, count, DIR_IN, 0, n}
#define ARR_OUT(n, count) {A_ARR, count, DIR_OUT, 0, n}
#define ARR_INOUT(n, count) {A_ARR, count, DIR_INOUT, 0, n}
#define BITS_IN(count) {A_BITS, count, DIR_IN, 0, 0}
#define BITS_OUT(count) {A_BITS, count, DIR_OUT, 0, 0}
#define PAGEVEC(len) {A_PAGEVEC, len, DIR_OUT, 0, 0}
#define IOV_IN(count) {A_IOV, count, DIR_IN, 0, 16}
#define IOV_OUT(count) {A_IOV, count, DIR_OUT, 0, 16}
#define SOCKADDR(len) {A_SADDR, len, DIR_IN, 0, 0}
#define NEST_IN(n) {A_NEST, 0, DIR_IN, 0, n}
#define NEST_OUT(n) {A_NEST, 0, DIR_OUT, 0, n}
#define NEST_INOUT(n) {A_NEST, 0, DIR_INOUT, 0, n}
#define STRV {A_STRV, 0, DIR_IN, 0, 8}

#define PASS NULL
#define COUNT_ARGS(...) (sizeof((struct arg[]){{0}, __VA_ARGS__}) / sizeof(struct arg) - 1)

const struct row call_table[CALL_MAX] = {
#define ROW(nr, name, door, handler, flags, ...) [nr] = {#name, handler, DOOR_##door, COUNT_ARGS(__VA_ARGS__), 0, flags, {__VA_ARGS__}},
#define NO(nr, name, err) [nr] = {#name, NULL, DOOR_RING, 0, err, 0, {{0}}},
#include "table.h"
#undef ROW
#undef NO
};

enum call_door call_door(u32 nr)
{
	const struct row *r = row_of(nr);
	return r ? (enum call_door)r->door : DOOR_RING;
}
