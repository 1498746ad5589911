/* A link as to a server far away: a TCP relay on loopback with a round-trip time and rates.
 *
 *     link ROUND_TRIP_S BYTES_PER_S ANSWERS_PER_S CONTROL LISTEN:TARGET...
 *
 * Each direction is delayed by half of the round-trip time, a new connection by a whole one more,
 * as its handshake would take. Each connection brings its client so many bytes a second, and so
 * many answers: what is asked for sooner is passed on later. What it does not have is TCP's slow
 * start, loss, and a limit of all connections together.
 *
 * All ports are loopback's. A connection to the control port is answered with what was carried so
 * far, as JSON. It is in C because it shares the machine with those that are measured.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PIECE_BYTES = 256 << 10, UNDER_WAY_BYTES = 2 << 20, EVENTS = 256, LISTENING_MAX = 8 };

/* How much later than asked for a piece is passed on, as measured. */
static const double LATE_S = 0.0004;

struct piece {
    struct piece *next;
    double due;
    size_t length, sent; /* a length of 0 is the end */
    char bytes[];
};

/* One end of a connection: what it can do, and what is on its way to it. */
struct end {
    struct connection *connection;
    struct end *other;
    struct piece *first, *last;
    size_t under_way;
    double arrival;
    int fd;
    bool readable, writable, read_all, wrote_all;
};

struct connection {
    struct connection *next, **link;
    struct end client, server;
    double opened, asked;
    bool answered, dead;
};

struct listening {
    int fd, target; /* the control port has no target */
};

static double round_trip, bytes_per_s, answers_per_s;
static struct connection *connections;
static struct listening listening[LISTENING_MAX];
static int listening_count, epoll_fd, timer_fd;
static unsigned long long carried_bytes, carried_connections;
static char buffer[PIECE_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double later(double one, double other)
{
    return one > other ? one : other;
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void watch(int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data.ptr = what};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event))
        fail("epoll_ctl");
}

static void listen_at(int port, int target)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    if (listening_count == LISTENING_MAX)
        fail("too many ports");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 512))
        fail("listen");
    listening[listening_count] = (struct listening){fd, target};
    watch(fd, EPOLLIN, &listening[listening_count++]);
}

static void prepare(struct connection *connection, struct end *end, struct end *other, int fd)
{
    int yes = 1;
    *end = (struct end){.connection = connection, .other = other, .fd = fd};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, end);
}

static void open_connection(int client, int target)
{
    struct sockaddr_in address = loopback(target);
    int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* On loopback this waits for nothing. */
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address)) {
        close(client);
        if (server >= 0)
            close(server);
        return;
    }
    struct connection *one = calloc(1, sizeof *one);
    if (!one)
        fail("calloc");
    one->opened = now() + round_trip;
    one->next = connections;
    one->link = &connections;
    if (connections)
        connections->link = &one->next;
    connections = one;
    prepare(one, &one->client, &one->server, client);
    prepare(one, &one->server, &one->client, server);
    carried_connections++;
}

static void tell(int fd)
{
    dprintf(fd, "{\"bytes\": %llu, \"connections\": %llu}", carried_bytes, carried_connections);
    close(fd);
}

static void accept_all(struct listening *from)
{
    int fd;
    while ((fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (from->target)
            open_connection(fd, from->target);
        else
            tell(fd);
    }
}

/* When what one end sent is to be passed on to the other. */
static double due(struct end *to, size_t length)
{
    struct connection *connection = to->connection;
    double at = later(now(), connection->opened) + round_trip / 2 - LATE_S;
    if (to == &connection->client) {
        connection->answered = true;
        to->arrival = later(to->arrival, at) + length / bytes_per_s;
        return to->arrival;
    }
    if (connection->answered) {
        connection->answered = false;
        at = connection->asked = later(at, connection->asked + 1 / answers_per_s);
    }
    return to->arrival = later(to->arrival, at);
}

static void receive(struct end *from)
{
    struct end *to = from->other;
    while (from->readable && !from->read_all && to->under_way < UNDER_WAY_BYTES) {
        ssize_t length = recv(from->fd, buffer, sizeof buffer, 0);
        if (length < 0) {
            if (errno == EAGAIN)
                from->readable = false;
            else if (errno != EINTR)
                from->connection->dead = true;
            if (errno != EINTR)
                return;
            continue;
        }
        struct piece *piece = malloc(sizeof *piece + length);
        if (!piece)
            fail("malloc");
        *piece = (struct piece){.due = due(to, length), .length = length};
        memcpy(piece->bytes, buffer, length);
        *(to->first ? &to->last->next : &to->first) = piece;
        to->last = piece;
        to->under_way += length;
        from->read_all = !length;
    }
}

/* Pass on what is due; return when the next is, 0 if nothing is on its way or its end is full. */
static double deliver(struct end *to, double at)
{
    struct piece *piece;
    while ((piece = to->first) && to->writable && !to->connection->dead) {
        if (piece->due > at)
            return piece->due;
        if (piece->length) {
            ssize_t sent = send(
                to->fd, piece->bytes + piece->sent, piece->length - piece->sent, MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN)
                to->writable = false;
            else if (sent < 0 && errno != EINTR)
                to->connection->dead = true;
            if (sent < 0)
                continue;
            piece->sent += sent;
            if (piece->sent < piece->length)
                continue;
            if (to == &to->connection->client)
                carried_bytes += piece->length;
        } else {
            shutdown(to->fd, SHUT_WR);
            to->wrote_all = true;
        }
        to->first = piece->next;
        to->under_way -= piece->length;
        free(piece);
        receive(to->other);
    }
    return 0;
}

static void close_end(struct end *end)
{
    close(end->fd);
    for (struct piece *piece = end->first, *next; piece; piece = next) {
        next = piece->next;
        free(piece);
    }
}

/* Pass on everywhere what is due, close what has ended, and set the timer to what comes next. */
static void carry(void)
{
    double at = now(), next = 0;
    for (struct connection *one = connections, *following; one; one = following) {
        following = one->next;
        double times[] = {deliver(&one->client, at), deliver(&one->server, at)};
        if (one->dead || (one->client.wrote_all && one->server.wrote_all)) {
            close_end(&one->client);
            close_end(&one->server);
            *one->link = one->next;
            if (one->next)
                one->next->link = one->link;
            free(one);
            continue;
        }
        for (int number = 0; number < 2; number++)
            if (times[number] && (!next || times[number] < next))
                next = times[number];
    }
    struct itimerspec timer = {0};
    timer.it_value.tv_sec = next;
    timer.it_value.tv_nsec = (next - timer.it_value.tv_sec) * 1e9;
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &timer, NULL);
}

int main(int count, char **arguments)
{
    if (count < 6) {
        fprintf(stderr, "link: five arguments, or more\n");
        return 2;
    }
    round_trip = atof(arguments[1]);
    bytes_per_s = atof(arguments[2]);
    answers_per_s = atof(arguments[3]);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(timer_fd, EPOLLIN | EPOLLET, &timer_fd);
    listen_at(atoi(arguments[4]), 0);
    for (int number = 5; number < count; number++) {
        int port, target;
        if (sscanf(arguments[number], "%d:%d", &port, &target) != 2)
            fail(arguments[number]);
        listen_at(port, target);
    }
    struct epoll_event events[EVENTS];
    for (;;) {
        int found = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int number = 0; number < found; number++) {
            void *what = events[number].data.ptr;
            if (what >= (void *)listening && what < (void *)(listening + LISTENING_MAX)) {
                accept_all(what);
            } else if (what != &timer_fd) {
                struct end *end = what;
                if (events[number].events & ~EPOLLOUT)
                    end->readable = true;
                if (events[number].events & ~EPOLLIN)
                    end->writable = true;
                receive(end);
            }
        }
        carry();
    }
}
