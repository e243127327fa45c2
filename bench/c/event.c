/* A server on libevent for the benchmarks: event MODE DELAY_MS. It prints where
 * it listens and ends with standard input. */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PIECES 4
static const char piece[] = "sixteen bytes. \n";
static const char answer[] =
    "HTTP/1.1 200 OK\r\nDate: Wed, 03 Oct 2012 23:43:10 GMT\r\n"
    "Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nomglolwtf";

enum mode { ECHOING, PIECEWISE, TO_ALL, DELAYED };

typedef struct conn {
  struct bufferevent *bev;
  struct event *timer;
  struct conn *next, *prev;
} conn;

static struct event_base *base;
static enum mode mode;
static struct timeval delay;
static conn all = {.next = &all, .prev = &all};

static void end(conn *c) {
  if (c->timer) event_free(c->timer);
  bufferevent_free(c->bev);
  c->next->prev = c->prev;
  c->prev->next = c->next;
  free(c);
}

static void happened(struct bufferevent *bev, short what, void *arg) {
  if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) end(arg);
}

static void drained(struct bufferevent *bev, void *arg) { end(arg); }

static void arrived(struct bufferevent *bev, void *arg);

static void due(evutil_socket_t fd, short what, void *arg) {
  conn *c = arg;
  bufferevent_setcb(c->bev, arrived, drained, happened, c);
  bufferevent_write(c->bev, answer, sizeof answer - 1);
}

static void arrived(struct bufferevent *bev, void *arg) {
  conn *c = arg;
  struct evbuffer *in = bufferevent_get_input(bev);
  switch (mode) {
  case ECHOING:
    bufferevent_write_buffer(bev, in);
    return;
  case PIECEWISE:
    for (int i = 0; i < PIECES; i++) bufferevent_write(bev, piece, sizeof piece - 1);
    break;
  case TO_ALL: {
    size_t n = evbuffer_get_length(in);
    unsigned char *data = evbuffer_pullup(in, n);
    for (conn *to = all.next; to != &all; to = to->next) bufferevent_write(to->bev, data, n);
    break;
  }
  case DELAYED:
    if (!c->timer) {
      c->timer = evtimer_new(base, due, c);
      evtimer_add(c->timer, &delay);
    }
  }
  evbuffer_drain(in, evbuffer_get_length(in));
}

static void accepted(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
  conn *c = calloc(1, sizeof *c);
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  c->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
  c->next = &all;
  c->prev = all.prev;
  all.prev->next = c;
  all.prev = c;
  bufferevent_setcb(c->bev, arrived, NULL, happened, c);
  bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

static void input(evutil_socket_t fd, short what, void *arg) {
  char space[64];
  if (read(fd, space, sizeof space) <= 0) exit(0);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  mode = !strcmp(argv[1], "echo")        ? ECHOING
         : !strcmp(argv[1], "pieces")    ? PIECEWISE
         : !strcmp(argv[1], "broadcast") ? TO_ALL
                                         : DELAYED;
  long ms = atol(argv[2]);
  delay.tv_sec = ms / 1000;
  delay.tv_usec = ms % 1000 * 1000;
  signal(SIGPIPE, SIG_IGN);
  struct rlimit lim;
  getrlimit(RLIMIT_NOFILE, &lim);
  lim.rlim_cur = lim.rlim_max;
  setrlimit(RLIMIT_NOFILE, &lim);
  base = event_base_new();

  struct sockaddr_in addr = {.sin_family = AF_INET};
  socklen_t len = sizeof addr;
  struct evconnlistener *l = evconnlistener_new_bind(base, accepted, NULL,
      LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, 4096, (struct sockaddr *)&addr, sizeof addr);
  if (!l) {
    perror("listen");
    return 1;
  }
  getsockname(evconnlistener_get_fd(l), (struct sockaddr *)&addr, &len);
  printf("listening 0.0.0.0:%d\n", ntohs(addr.sin_port));
  fflush(stdout);
  event_add(event_new(base, 0, EV_READ | EV_PERSIST, input, NULL), NULL);
  return event_base_dispatch(base);
}
