package httpbridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/e2e/internal/child"
	"github.com/redis/go-redis/v9"
)

// hosts returns a configuration whose resolver knows db.test.
func hosts(t *testing.T) *eventloop.Config {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, []byte("127.0.0.1 db.test\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	return &eventloop.Config{Resolver: &eventloop.ResolverConfig{HostsFile: path}}
}

// startRedis starts redis-server, and returns its port.
func startRedis(t *testing.T) (port string) {
	server := os.Getenv("REDIS_SERVER")
	if server == "" {
		server = "redis-server"
	}
	path, err := exec.LookPath(server)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("redis-server is not installed (apt-get install redis-server, or set REDIS_SERVER)")
	}
	dir := t.TempDir()
	redis, err := child.Start(path, func(addr string) []string {
		_, port, _ = net.SplitHostPort(addr)
		return []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { redis.Stop() })
	return port
}

func TestGoRedisConnectsByTheDialerOfTheLoop(t *testing.T) {
	port := startRedis(t)
	run(t, hosts(t), func(l *eventloop.Loop) *eventloop.Future[struct{}] {
		return eventloop.Work(bg, l, func(context.Context) (struct{}, error) {
			client := redis.NewClient(&redis.Options{Addr: "db.test:" + port, Dialer: l.DialContext})
			defer client.Close()
			if err := client.Set(bg, "key", "value", 0).Err(); err != nil {
				return struct{}{}, err
			}
			got, err := client.Get(bg, "key").Result()
			if got != "value" {
				t.Errorf("got %q", got)
			}
			if n := l.Stats().Conns.DialedTotal; n == 0 {
				t.Error("the loop has dialed nothing")
			}
			return struct{}{}, err
		})
	})
}

// servePostgres speaks as much of the protocol of PostgreSQL as a simple query takes.
func servePostgres(t *testing.T) (port string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if err := answerPostgres(c); err != nil && !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	return port
}

func answerPostgres(c net.Conn) error {
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for {
		if err := b.Flush(); err != nil {
			return err
		}
		message, err := b.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.Query:
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("answer"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1}}})
			b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("42")}})
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return nil
		default:
			return fmt.Errorf("unexpected %T", m)
		}
	}
}

func TestPgxConnectsByTheDialerOfTheLoop(t *testing.T) {
	port := servePostgres(t)
	run(t, hosts(t), func(l *eventloop.Loop) *eventloop.Future[struct{}] {
		return eventloop.Work(bg, l, func(context.Context) (struct{}, error) {
			cfg, err := pgx.ParseConfig("postgres://user@db.test:" + port + "/db?sslmode=disable")
			if err != nil {
				return struct{}{}, err
			}
			cfg.DialFunc = l.DialContext
			cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil } // the loop resolves
			cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
			conn, err := pgx.ConnectConfig(bg, cfg)
			if err != nil {
				return struct{}{}, err
			}
			defer conn.Close(bg)
			var answer string
			err = conn.QueryRow(bg, "select 42 as answer").Scan(&answer)
			if answer != "42" {
				t.Errorf("answer %q", answer)
			}
			return struct{}{}, err
		})
	})
}
