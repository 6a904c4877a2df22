/* Signals and threads: which thread gets what, masks, mutual signalling. */
#include "sig.h"
#include <pthread.h>

#define THREADS 8
static _Atomic int hits[THREADS], wrong, ready, stop;
static __thread int self = -1;
static pthread_t thread[THREADS];

static void on_usr1(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)context;
	if (self < 0 || info->si_code != SI_TKILL || info->si_pid != getpid())
		wrong++;
	else
		hits[self]++;
}

static void *counter(void *arg)
{
	self = (int)(intptr_t)arg;
	ready++;
	unsigned long n = 0;
	while (!stop)
		if (self % 2)
			n++; /* computing */
		else
			usleep(1000); /* in a call */
	return (void *)n;
}

static void directed(void)
{
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, counter, (void *)i);
	while (ready < THREADS)
		sleep_ms(1);
	for (int round = 1; round <= 25; round++) {
		for (int i = 0; i < THREADS; i++)
			pthread_kill(thread[i], SIGUSR1);
		for (int i = 0; i < THREADS; i++)
			while (hits[i] < round)
				usleep(200);
	}
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	say("directed: %d each, wrong %d", hits[0], wrong);
	for (int i = 0; i < THREADS; i++)
		check(hits[i] == 25);
	check(!wrong);
}

static _Atomic int waited_for;

static void *waiter(void *arg)
{
	sigset_t s = set_of(SIGUSR2, SIGTERM);
	int signo;
	(void)arg;
	do {
		if (sigwait(&s, &signo))
			return (void *)-1;
		waited_for++;
	} while (signo != SIGTERM);
	return NULL;
}

/* All threads block the signal, one waits for it: the process's signals go there. */
static void to_the_waiter(void)
{
	block(SIGUSR2);
	block(SIGTERM);
	pthread_t w;
	pthread_create(&w, NULL, waiter, NULL);
	for (int i = 0; i < 5; i++) {
		kill(getpid(), SIGUSR2);
		while (waited_for <= i) /* two at once would be one */
			usleep(200);
		sleep_ms(5);
	}
	kill(getpid(), SIGTERM);
	void *failed;
	pthread_join(w, &failed);
	check(!failed);
	say("sigwait thread got %d", waited_for);
	unblock(SIGUSR2);
	unblock(SIGTERM);
}

static _Atomic int by_main, by_other;
static pthread_t main_thread;

static void on_urg(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	if (pthread_equal(pthread_self(), main_thread))
		by_main++;
	else
		by_other++;
}

static void *open_thread(void *arg)
{
	(void)arg;
	unblock(SIGURG);
	while (by_other < 3)
		sleep_ms(1);
	return NULL;
}

static void to_the_open_one(void)
{
	main_thread = pthread_self();
	on_signal(SIGURG, on_urg, 0);
	block(SIGURG);
	pthread_t o;
	pthread_create(&o, NULL, open_thread, NULL); /* inherits the mask */
	for (int i = 1; i <= 3; i++) {
		kill(getpid(), SIGURG);
		while (by_other < i)
			sleep_ms(1);
	}
	pthread_join(o, NULL);
	say("unblocked thread got %d, main %d", by_other, by_main);
	kill(getpid(), SIGURG);
	sleep_ms(20);
	say("nobody: %d", by_main);
	unblock(SIGURG);
	say("then main: %d", by_main);
}

static void *show_inherited(void *arg)
{
	sigset_t m;
	stack_t s;
	(void)arg;
	pthread_sigmask(SIG_BLOCK, NULL, &m);
	sigaltstack(NULL, &s);
	say("new thread: HUP blocked %d, altstack flags %x", sigismember(&m, SIGHUP), (unsigned)s.ss_flags);
	return NULL;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int locked;

static void *locker(void *arg)
{
	(void)arg;
	self = 0;
	pthread_mutex_lock(&lock);
	locked = 1;
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void *cancelled(void *arg)
{
	(void)arg;
	ready = -1;
	for (;;)
		pause();
	return NULL;
}

int main(void)
{
	on_signal(SIGUSR1, on_usr1, 0);
	directed();
	to_the_waiter();
	to_the_open_one();
	static char area[65536];
	stack_t s = {.ss_sp = area, .ss_size = sizeof area};
	sigaltstack(&s, NULL);
	block(SIGHUP);
	pthread_t t;
	pthread_create(&t, NULL, show_inherited, NULL);
	pthread_join(t, NULL);

	/* A futex wait that a signal interrupts goes on. */
	hits[0] = 0;
	pthread_mutex_lock(&lock);
	pthread_create(&t, NULL, locker, NULL);
	for (int i = 1; i <= 10; i++) {
		sleep_ms(5);
		pthread_kill(t, SIGUSR1);
	}
	sleep_ms(10);
	say("waits for the lock: %d", !locked);
	pthread_mutex_unlock(&lock);
	pthread_join(t, NULL);
	say("has had the lock: %d, handlers %d", locked, hits[0] >= 1);

	pthread_create(&t, NULL, cancelled, NULL);
	while (ready != -1)
		sleep_ms(1);
	pthread_cancel(t);
	void *value;
	pthread_join(t, &value);
	say("cancelled: %d", value == PTHREAD_CANCELED);

	/* A process whose thread dies of a fault dies as a whole; its parent sees the signal. */
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGTERM, SIG_DFL);
		pthread_create(&t, NULL, cancelled, NULL);
		sleep_ms(20);
		pthread_kill(t, SIGTERM);
		pause();
	}
	waitpid(pid, &status, 0);
	say("fatal for one: %s", status_text(status));
	return done();
}
