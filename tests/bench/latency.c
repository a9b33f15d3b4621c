/* An open-loop DNS client: asks at a fixed rate, whether answers come or not, and notes how long each took.
 *
 *     latency PORT QUERIES RATE SECONDS RECORDS
 *
 * QUERIES: a file of lines "name type" (A alone is understood); they are asked in order, round and round. RECORDS: for
 * each query 24 octets {double due, double latency, u64 rcode}: seconds on CLOCK_MONOTONIC when it was due, seconds from
 * when it was sent to when the kernel took the answer in, -1 for a query that was not answered within TIMEOUT. Ends after
 * SECONDS, or at SIGTERM, and waits for what is under way.
 *
 * Nothing a server does makes this client ask later: what is due is sent before answers are looked at. The kernel's time
 * stamps (SO_TIMESTAMPNS) keep the client's own wake-ups out of the figures, so it can sleep and leave its core to the
 * upstream. 16 sockets, so that several workers get their share.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { SOCKETS = 16, IDS = 65536, MAX_QUERIES = 200000, MAX_PACKET = 4096 };
static const double TIMEOUT = 2.0; /* seconds */

struct record {
    double due, latency; /* latency: while a query is under way, less than -1: minus when it was sent */
    uint64_t rcode;
};

struct query {
    unsigned char *octets;
    size_t length;
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* A datagram and when the kernel took it in, in seconds on CLOCK_REALTIME. */
static ssize_t take(int fd, unsigned char *packet, double *when)
{
    char control[128];
    struct iovec part = {packet, MAX_PACKET};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, 0);
    *when = 0;
    if (length >= 0)
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
                struct timespec t;
                memcpy(&t, CMSG_DATA(c), sizeof t);
                *when = t.tv_sec + t.tv_nsec * 1e-9;
            }
    return length;
}

/* The query for a line "name type": RD, one question, an OPT with 1232 octets (RFC 6891 section 6.1.2). */
static struct query encode(const char *line)
{
    static const unsigned char opt[] = {0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0};
    static const unsigned char header[] = {0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1};
    struct query query = {malloc(strlen(line) + 64), 0};
    unsigned char *at = query.octets;
    memcpy(at, header, sizeof header);
    at += sizeof header;
    while (*line && *line != ' ' && *line != '\n') {
        size_t label = strcspn(line, ". \n");
        if (label == 0 || label > 63)
            break;
        *at++ = (unsigned char)label;
        memcpy(at, line, label);
        at += label;
        line += label + (line[label] == '.');
    }
    *at++ = 0;
    memcpy(at, "\0\1\0\1", 4); /* A, IN */
    at += 4;
    memcpy(at, opt, sizeof opt);
    at += sizeof opt;
    query.length = (size_t)(at - query.octets);
    return query;
}

int main(int argc, char **argv)
{
    static struct query queries[MAX_QUERIES];
    static uint32_t waiting[SOCKETS][IDS]; /* number of the query + 1; 0: nobody waits */
    unsigned char packet[MAX_PACKET];
    char line[512];
    struct pollfd polled[SOCKETS];
    int fds[SOCKETS];
    size_t count = 0, sent = 0, answered = 0;

    if (argc != 6)
        return 2;
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    size_t most = (size_t)(rate * seconds) + 1;
    struct record *records = calloc(most, sizeof *records);
    FILE *file = fopen(argv[2], "r");
    if (!file || !records || rate <= 0 || rate * TIMEOUT > (double)SOCKETS * IDS)
        return 2;
    while (count < MAX_QUERIES && fgets(line, sizeof line, file))
        queries[count++] = encode(line);
    fclose(file);
    if (count == 0)
        return 2;

    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    for (int i = 0; i < SOCKETS; i++) {
        int room = 1 << 20, yes = 1;
        fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        setsockopt(fds[i], SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
        setsockopt(fds[i], SOL_SOCKET, SO_TIMESTAMPNS, &yes, sizeof yes);
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        if (fds[i] < 0 || connect(fds[i], (void *)&server, sizeof server))
            return 1;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    prctl(PR_SET_TIMERSLACK, 1UL);

    double begin = now(CLOCK_MONOTONIC), end = begin + seconds;
    for (;;) {
        double t = now(CLOCK_MONOTONIC);
        int sending = !stopped && t < end && sent < most;
        if (!sending && (answered == sent || t > begin + (double)sent / rate + TIMEOUT))
            break;
        while (sending && sent < most && begin + (double)sent / rate <= t) {
            struct query *query = &queries[sent % count];
            size_t place = sent % SOCKETS, id = sent / SOCKETS % IDS;
            query->octets[0] = (unsigned char)(id >> 8);
            query->octets[1] = (unsigned char)id;
            records[sent] = (struct record){begin + (double)sent / rate, -now(CLOCK_REALTIME), 0};
            waiting[place][id] = (uint32_t)sent + 1;
            while (send(fds[place], query->octets, query->length, 0) < 0 && errno == ECONNREFUSED)
                ; /* the error of an earlier datagram, told once: this one is sent on the next try */
            sent++;
        }
        double wait = begin + (double)sent / rate - now(CLOCK_MONOTONIC);
        struct timespec rest = {0, sending && wait < 0.01 ? (wait > 0 ? (long)(wait * 1e9) : 0) : 10000000};
        if (ppoll(polled, SOCKETS, &rest, NULL) <= 0)
            continue;
        for (int i = 0; i < SOCKETS; i++) {
            ssize_t length;
            double when;
            while (polled[i].revents && (length = take(fds[i], packet, &when)) >= 12) {
                uint32_t *slot = &waiting[i][packet[0] << 8 | packet[1]];
                if (*slot && packet[2] & 0x80) {
                    struct record *record = &records[*slot - 1];
                    record->latency += when; /* since it was sent */
                    record->rcode = packet[3] & 15;
                    *slot = 0;
                    answered++;
                }
            }
        }
    }
    for (size_t i = 0; i < sent; i++)
        if (records[i].latency < 0 || records[i].latency > TIMEOUT) /* never, or too late */
            records[i].latency = -1;
    file = fopen(argv[5], "wb");
    if (!file || fwrite(records, sizeof *records, sent, file) != sent || fclose(file))
        return 1;
    return 0;
}
