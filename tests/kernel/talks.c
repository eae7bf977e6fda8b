// SPDX-License-Identifier: Apache-2.0
/*
 * Connections of known size on this namespace's loopback, many open at once, client and server in one
 * process: `talks CONNECTIONS THREADS`. With the client's port p the client sends sent(p) bytes and the
 * server received(p), each in ROUNDS pieces that are read before the next; then the client or the server
 * closes first, or resets, or the client disconnects (AF_UNSPEC) and connects anew with the same socket.
 * Prints how many were made; any failure ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define ADDRESSES 16 /* so that ephemeral ports do not run out */
#define OPEN 32
#define ROUNDS 3
#define PIECE 8192

struct talk {
	int client, server;
	unsigned round, port;
};

struct job {
	pthread_t thread;
	unsigned number, connections;
};

static unsigned sent(unsigned port)
{
	return 1 + port % 5000;
}

static unsigned received(unsigned port)
{
	return 1 + port * 7 % 3000;
}

/* The round's share of `total`; the last has the rest. */
static unsigned share(unsigned total, unsigned round)
{
	return round + 1 < ROUNDS ? total / ROUNDS : total - (ROUNDS - 1) * (total / ROUNDS);
}

static void carry(int from, int to, unsigned size)
{
	static __thread char piece[PIECE];

	if (size && (write(from, piece, size) != size ||
		     recv(to, piece, size, MSG_WAITALL) != size))
		err(1, "data");
}

static void begin(struct talk *talk, const struct job *job, int listener, unsigned i)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(7001 + job->number) };
	struct sockaddr_in name;
	socklen_t size = sizeof(name);

	to.sin_addr.s_addr = htonl(0x7f000001 + i % ADDRESSES);
	if (talk->client < 0)
		talk->client = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(talk->client, (struct sockaddr *)&to, sizeof(to)))
		err(1, "connect");
	talk->server = accept(listener, NULL, NULL);
	if (talk->server < 0 || getsockname(talk->client, (struct sockaddr *)&name, &size))
		err(1, "accept");
	talk->port = ntohs(name.sin_port);
	talk->round = 0;
}

static void end(struct talk *talk, unsigned i, int last)
{
	struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	struct linger none = { .l_onoff = 1 };
	int client_first = i & 1;

	if (i % 4 == 0 && !last) {
		if (connect(talk->client, &unspec, sizeof(unspec)))
			err(1, "disconnect");
		close(talk->server);
		return;
	}
	if (i % 8 == 1 && setsockopt(talk->client, SOL_SOCKET, SO_LINGER, &none, sizeof(none)))
		err(1, "SO_LINGER");
	close(client_first ? talk->client : talk->server);
	close(client_first ? talk->server : talk->client);
	talk->client = -1;
}

static void *work(void *argument)
{
	struct job *job = argument;
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(7001 + job->number) };
	struct talk talks[OPEN];
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	unsigned begun = 0, ended = 0;

	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 128))
		err(1, "listen");
	for (unsigned i = 0; i < OPEN; i++)
		talks[i] = (struct talk){ .client = -1, .round = ROUNDS + 1 };
	for (unsigned at = 0; ended < job->connections; at = (at + 1) % OPEN) {
		struct talk *talk = &talks[at];

		if (talk->round > ROUNDS) {
			if (begun < job->connections)
				begin(talk, job, listener, begun++);
		} else if (talk->round < ROUNDS) {
			carry(talk->client, talk->server, share(sent(talk->port), talk->round));
			carry(talk->server, talk->client, share(received(talk->port), talk->round));
			talk->round++;
		} else {
			end(talk, ended++, begun == job->connections);
			talk->round++;
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 3 ? atoi(argv[2]) : 0, made = 0;
	struct job jobs[16] = {};

	if (threads < 1 || threads > 16)
		errx(2, "usage: talks CONNECTIONS THREADS");
	for (unsigned i = 0; i < threads; i++) {
		jobs[i].number = i;
		jobs[i].connections = atoi(argv[1]) / threads;
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
