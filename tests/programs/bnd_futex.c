/* 64 threads on few futexes: mutexes, conditions with broadcast, barriers, priority inheritance, waits with a timeout. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64, ROUNDS = 200, TURNS = 10, MEETINGS = 30 };

static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER, inherit, turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long plain_count, inherit_count, own_count;
static int turn;
static atomic_uint own; /* 0 free, 1 taken, 2 taken and waited for */
static atomic_int timeouts, serial, errors;

static long futex(atomic_uint *word, int operation, unsigned int value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

static void own_lock(void)
{
	unsigned int state = 0;
	if (atomic_compare_exchange_strong(&own, &state, 1))
		return;
	while (atomic_exchange(&own, 2) != 0)
		if (futex(&own, FUTEX_WAIT, 2, NULL) != 0 && errno != EAGAIN && errno != EINTR)
			atomic_fetch_add(&errors, 1);
}

static void own_unlock(void)
{
	if (atomic_exchange(&own, 0) == 2 && futex(&own, FUTEX_WAKE, 1, NULL) < 0)
		atomic_fetch_add(&errors, 1);
}

static void *work(void *argument)
{
	int id = (int)(long)argument;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&plain);
		plain_count++;
		pthread_mutex_unlock(&plain);
		own_lock();
		own_count++;
		own_unlock();
		if (i % 8 == 0) {
			pthread_mutex_lock(&inherit);
			inherit_count++;
			pthread_mutex_unlock(&inherit);
		}
	}
	for (int i = 0; i < MEETINGS; i++)
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			atomic_fetch_add(&serial, 1);
	for (int i = 0; i < TURNS; i++) { /* strict order: everybody wakes, one goes on */
		pthread_mutex_lock(&turn_lock);
		while (turn % THREADS != id)
			pthread_cond_wait(&turn_changed, &turn_lock);
		turn++;
		pthread_cond_broadcast(&turn_changed);
		pthread_mutex_unlock(&turn_lock);
	}
	atomic_uint alone = 5;
	struct timespec short_time = { 0, 2000000 };
	if (futex(&alone, FUTEX_WAIT_PRIVATE, 5, &short_time) == -1 && errno == ETIMEDOUT)
		atomic_fetch_add(&timeouts, 1);
	return NULL;
}

int main(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&inherit, &attributes);
	pthread_barrier_init(&barrier, NULL, THREADS);
	pthread_t threads[THREADS];
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
			return 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("plain %ld, own %ld, inherit %ld\n", plain_count, own_count, inherit_count);
	printf("serial %d, turns %d, timeouts %d, errors %d\n", serial, turn, timeouts, errors);
	return 0;
}
