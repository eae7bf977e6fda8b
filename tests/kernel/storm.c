// SPDX-License-Identifier: Apache-2.0
/*
 * As many connections as the machine makes, on this namespace's loopback, client and server in one
 * process: `storm CONNECTIONS THREADS REUSE`. Each client socket makes REUSE connections, one after the
 * other, with connect(AF_UNSPEC) in between. Of those that end by close, every fourth is reset by the
 * side that closes first; every third carries a byte. Prints how many were made; any failure ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ADDRESSES 16 /* so that ephemeral ports do not run out */

struct job {
	pthread_t thread;
	unsigned number, connections, reuse;
};

static struct sockaddr_in target(unsigned thread, unsigned address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(7001 + thread) };

	to.sin_addr.s_addr = htonl(0x7f000001 + address % ADDRESSES);
	return to;
}

static void reset_at_close(int fd)
{
	struct linger none = { .l_onoff = 1 };

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none)))
		err(1, "SO_LINGER");
}

static int listen_on(unsigned thread)
{
	struct sockaddr_in any = target(thread, 0);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	any.sin_addr.s_addr = INADDR_ANY;
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&any, sizeof(any)) || listen(fd, 128))
		err(1, "listen");
	return fd;
}

static void end(int client, int server, unsigned i, int last)
{
	struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	char byte;
	int first;

	if (i % 3 == 0 && (write(client, "x", 1) != 1 || read(server, &byte, 1) != 1))
		err(1, "data");
	if (!last) {
		if (connect(client, &unspec, sizeof(unspec)))
			err(1, "disconnect");
		close(server);
		return;
	}
	first = i % 8 == 0 || i & 1 ? client : server;
	if (i % 4 == 0)
		reset_at_close(first);
	close(first);
	close(first == client ? server : client);
}

static void *work(void *argument)
{
	struct job *job = argument;
	int listener = listen_on(job->number), client = -1;

	for (unsigned i = 0; i < job->connections; i++) {
		struct sockaddr_in to = target(job->number, i);
		int server, last = i % job->reuse == job->reuse - 1 || i + 1 == job->connections;

		if (i % job->reuse == 0)
			client = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(client, (struct sockaddr *)&to, sizeof(to)))
			err(1, "connect %u", i);
		server = accept(listener, NULL, NULL);
		if (server < 0)
			err(1, "accept");
		end(client, server, i, last);
	}
	close(listener);
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 4 ? atoi(argv[2]) : 0, made = 0;
	struct job jobs[64] = {};

	if (threads < 1 || threads > 64)
		errx(2, "usage: storm CONNECTIONS THREADS REUSE");
	for (unsigned i = 0; i < threads; i++) {
		jobs[i].number = i;
		jobs[i].connections = atoi(argv[1]) / threads;
		jobs[i].reuse = atoi(argv[3]);
		if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]))
			errx(1, "pthread_create");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(jobs[i].thread, NULL);
		made += jobs[i].connections;
	}
	printf("%u\n", made);
	return 0;
}
