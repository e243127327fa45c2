/* A server on libuv for the benchmarks: uv MODE DELAY_MS. It prints where it
 * listens and ends with standard input. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#define PIECES 4
static char piece[] = "sixteen bytes. \n";
static char answer[] =
    "HTTP/1.1 200 OK\r\nDate: Wed, 03 Oct 2012 23:43:10 GMT\r\n"
    "Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nomglolwtf";

enum mode { ECHOING, PIECEWISE, TO_ALL, DELAYED };

typedef struct conn {
  uv_tcp_t tcp;
  uv_timer_t timer;
  int timed, handles;
  struct conn *next, *prev;
} conn;

typedef struct {
  uv_write_t req;
  char data[]; /* what is to be freed with it */
} request;

static uv_loop_t *loop;
static enum mode mode;
static uint64_t delay;
static conn all = {.next = &all, .prev = &all};
static char input[64 << 10]; /* one at a time: a callback copies what it keeps */

static void closed(uv_handle_t *h) {
  conn *c = h->data;
  if (--c->handles > 0) return;
  c->next->prev = c->prev;
  c->prev->next = c->next;
  free(c);
}

static void end(conn *c) {
  if (uv_is_closing((uv_handle_t *)&c->tcp)) return;
  uv_close((uv_handle_t *)&c->tcp, closed);
  if (c->timed) uv_close((uv_handle_t *)&c->timer, closed);
}

static void written(uv_write_t *req, int status) {
  conn *c = req->handle->data;
  free(req);
  if (status < 0 || mode == DELAYED) end(c);
}

static void copy_out(conn *c, const char *data, size_t n) {
  request *r = malloc(sizeof *r + n);
  memcpy(r->data, data, n);
  uv_buf_t buf = uv_buf_init(r->data, n);
  if (uv_write(&r->req, (uv_stream_t *)&c->tcp, &buf, 1, written) < 0) free(r);
}

static void due(uv_timer_t *t) {
  copy_out(t->data, answer, sizeof answer - 1);
}

static void alloc(uv_handle_t *h, size_t size, uv_buf_t *buf) {
  *buf = uv_buf_init(input, sizeof input);
}

static void arrived(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
  conn *c = s->data;
  if (n < 0) end(c);
  if (n <= 0) return;
  switch (mode) {
  case ECHOING:
    copy_out(c, buf->base, n);
    break;
  case PIECEWISE:
    for (int i = 0; i < PIECES; i++) copy_out(c, piece, sizeof piece - 1);
    break;
  case TO_ALL:
    for (conn *to = all.next; to != &all; to = to->next)
      if (!uv_is_closing((uv_handle_t *)&to->tcp)) copy_out(to, buf->base, n);
    break;
  case DELAYED:
    if (c->timed) break;
    c->timed = 1;
    c->handles++;
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    uv_timer_start(&c->timer, due, delay, 0);
  }
}

static void connected(uv_stream_t *server, int status) {
  if (status < 0) return;
  conn *c = calloc(1, sizeof *c);
  uv_tcp_init(loop, &c->tcp);
  c->tcp.data = c;
  c->handles = 1;
  c->next = &all;
  c->prev = all.prev;
  all.prev->next = c;
  all.prev = c;
  if (uv_accept(server, (uv_stream_t *)&c->tcp) < 0) {
    end(c);
    return;
  }
  uv_tcp_nodelay(&c->tcp, 1);
  uv_read_start((uv_stream_t *)&c->tcp, alloc, arrived);
}

static void stdin_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf) {
  static char space[64];
  *buf = uv_buf_init(space, sizeof space);
}

static void stdin_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
  if (n < 0) exit(0);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  mode = !strcmp(argv[1], "echo")        ? ECHOING
         : !strcmp(argv[1], "pieces")    ? PIECEWISE
         : !strcmp(argv[1], "broadcast") ? TO_ALL
                                         : DELAYED;
  delay = strtoull(argv[2], NULL, 10);
  signal(SIGPIPE, SIG_IGN);
  struct rlimit lim;
  getrlimit(RLIMIT_NOFILE, &lim);
  lim.rlim_cur = lim.rlim_max;
  setrlimit(RLIMIT_NOFILE, &lim);
  loop = uv_default_loop();

  uv_tcp_t server;
  struct sockaddr_in addr;
  int len = sizeof addr;
  uv_ip4_addr("0.0.0.0", 0, &addr);
  uv_tcp_init(loop, &server);
  uv_tcp_bind(&server, (struct sockaddr *)&addr, 0);
  int err = uv_listen((uv_stream_t *)&server, 4096, connected);
  if (err) {
    fprintf(stderr, "%s\n", uv_strerror(err));
    return 1;
  }
  uv_tcp_getsockname(&server, (struct sockaddr *)&addr, &len);
  printf("listening 0.0.0.0:%d\n", ntohs(addr.sin_port));
  fflush(stdout);

  uv_pipe_t in;
  uv_pipe_init(loop, &in, 0);
  uv_pipe_open(&in, 0);
  uv_read_start((uv_stream_t *)&in, stdin_alloc, stdin_read);
  return uv_run(loop, UV_RUN_DEFAULT);
}
