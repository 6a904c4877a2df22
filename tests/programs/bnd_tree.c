/* 200 processes, all alive at once, in a binary tree of pipes: "go" travels from the root to the leaves, sums travel back.
 * Odd nodes execute this program anew, even ones go on after fork. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NODES = 200, TEXT = 16 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int node(const char *program, int number, int down, int up)
{
	int to_child[2], from_child[2], sum = number, children = 0, go;
	int go_fd[2], sum_fd[2];
	for (int child = 2 * number + 1; child <= 2 * number + 2 && child < NODES; child++) {
		if (pipe(to_child) != 0 || pipe(from_child) != 0)
			die("pipe");
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			close(to_child[1]);
			close(from_child[0]);
			for (int i = 0; i < children; i++) {
				close(go_fd[i]);
				close(sum_fd[i]);
			}
			if (child % 2 == 0)
				exit(node(program, child, to_child[0], from_child[1]));
			char text[3][TEXT];
			int values[3] = { child, to_child[0], from_child[1] };
			for (int i = 0; i < 3; i++)
				snprintf(text[i], TEXT, "%d", values[i]);
			execl(program, program, text[0], text[1], text[2], (char *)NULL);
			die(program);
		}
		close(to_child[0]);
		close(from_child[1]);
		go_fd[children] = to_child[1];
		sum_fd[children++] = from_child[0];
	}
	if (down >= 0 && read(down, &go, sizeof go) != sizeof go)
		die("go");
	go = 1;
	for (int i = 0; i < children; i++)
		if (write(go_fd[i], &go, sizeof go) != sizeof go)
			die("send");
	for (int i = 0; i < children; i++) {
		int part, status;
		if (read(sum_fd[i], &part, sizeof part) != sizeof part)
			die("sum");
		sum += part;
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
			sum = -1000000;
	}
	if (up >= 0 && write(up, &sum, sizeof sum) != sizeof sum)
		die("up");
	if (up < 0)
		printf("sum %d of %d\n", sum, NODES * (NODES - 1) / 2);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4)
		return node(argv[0], atoi(argv[1]), atoi(argv[2]), atoi(argv[3]));
	return node(argv[0], 0, -1, -1);
}
