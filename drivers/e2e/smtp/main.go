// Command smtp measures drivers/smtp beside net/smtp and go-mail: they send mails to a
// server with latency, in turn, with as many connections each. Its tests test
// drivers/smtp with real servers.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	stdsmtp "net/smtp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp"
	"github.com/wneessen/go-mail"
)

var (
	mails   = flag.Int("n", 1000, "mails per round")
	conns   = flag.Int("conns", 5, "connections")
	latency = flag.Duration("latency", 20*time.Millisecond, "round-trip time")
	rounds  = flag.Int("rounds", 5, "rounds")
	size    = flag.Int("size", 2000, "bytes of a mail")
)

const (
	sender    = "ann@example.com"
	recipient = "bob@example.com"
)

func main() {
	flag.Parse()
	b := &backend{}
	server := gosmtp.NewServer(b)
	server.Domain = "localhost"
	server.ErrorLog = log.New(io.Discard, "", 0)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go server.Serve(ln)
	far := delayed(ln.Addr().String())

	clients := []struct {
		name string
		send func(addr string, body []byte)
	}{
		{"drivers/smtp", sendByLoop},
		{"net/smtp", sendByStd},
		{"go-mail", sendByGoMail},
	}
	body := messageOf(*size)
	times := make([][]time.Duration, len(clients))
	for range *rounds {
		for i, c := range clients {
			b.reset()
			start := time.Now()
			c.send(far, body)
			times[i] = append(times[i], time.Since(start))
			if n := b.reset(); n != *mails {
				log.Fatalf("%s: %d of %d mails arrived", c.name, n, *mails)
			}
		}
	}
	fmt.Printf("%d mails of %d bytes, %d connections, round-trip time %v, median (and range) of %d rounds\n", *mails, *size, *conns, *latency, *rounds)
	for i, c := range clients {
		slices.Sort(times[i])
		median := times[i][len(times[i])/2]
		fmt.Printf("%-14s %8v  (%v to %v)  %5.0f mails/s  %.2f round trips per mail and connection\n", c.name, round(median),
			round(times[i][0]), round(times[i][len(times[i])-1]), float64(*mails)/median.Seconds(),
			median.Seconds()*float64(*conns)/float64(*mails)/latency.Seconds())
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// messageOf returns a message of about n bytes.
func messageOf(n int) []byte {
	var b strings.Builder
	b.WriteString("From: " + sender + "\r\nTo: " + recipient + "\r\nSubject: bench\r\n\r\n")
	for b.Len() < n {
		b.WriteString(strings.Repeat("0123456789", 7) + "\r\n")
	}
	return []byte(b.String())
}

func sendByLoop(addr string, body []byte) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS, MaxConns: *conns, MaxMessages: -1, MaxQueue: *mails})
		if err != nil {
			return err
		}
		for range *mails {
			c.Send(context.Background(), smtp.Mail{From: sender, To: []string{recipient}, Body: body}).Then(func(_ smtp.Receipt, err error) { check(err) })
		}
		c.Close()
		return nil
	})
	check(err)
}

// each runs f on a goroutine for each connection, with the number of its mails.
func each(f func(n int)) {
	var wg sync.WaitGroup
	for i := range *conns {
		n := *mails / *conns
		if i < *mails%*conns {
			n++
		}
		wg.Go(func() { f(n) })
	}
	wg.Wait()
}

func sendByStd(addr string, body []byte) {
	each(func(n int) {
		c, err := stdsmtp.Dial(addr)
		check(err)
		check(c.Hello("localhost"))
		for range n {
			check(c.Mail(sender))
			check(c.Rcpt(recipient))
			w, err := c.Data()
			check(err)
			_, err = w.Write(body)
			check(err)
			check(w.Close())
		}
		check(c.Quit())
	})
}

func sendByGoMail(addr string, body []byte) {
	host, port, err := net.SplitHostPort(addr)
	check(err)
	number, err := strconv.Atoi(port)
	check(err)
	_, text, _ := strings.Cut(string(body), "\r\n\r\n")
	each(func(n int) {
		c, err := mail.NewClient(host, mail.WithPort(number), mail.WithTLSPolicy(mail.NoTLS), mail.WithHELO("localhost"), mail.WithoutNoop())
		check(err)
		msg := mail.NewMsg()
		check(msg.From(sender))
		check(msg.To(recipient))
		msg.Subject("bench")
		msg.SetBodyString(mail.TypeTextPlain, text)
		msgs := slices.Repeat([]*mail.Msg{msg}, n)
		check(c.DialWithContext(context.Background()))
		check(c.Send(msgs...))
		check(c.Close())
	})
}

// A backend counts mails.
type backend struct {
	mu sync.Mutex
	n  int
}

func (b *backend) reset() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.n
	b.n = 0
	return n
}

func (b *backend) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return session{b}, nil }

type session struct{ b *backend }

func (session) Reset()                                 {}
func (session) Logout() error                          { return nil }
func (session) Mail(string, *gosmtp.MailOptions) error { return nil }
func (session) Rcpt(string, *gosmtp.RcptOptions) error { return nil }

func (s session) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.b.mu.Lock()
	s.b.n++
	s.b.mu.Unlock()
	return nil
}

// delayed returns the address of a proxy to addr through which bytes take half of the
// latency in each direction. Bytes on the way do not delay each other, as on a long wire.
func delayed(addr string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		for {
			c, err := ln.Accept()
			check(err)
			s, err := net.Dial("tcp", addr)
			check(err)
			go wire(c, s)
			go wire(s, c)
		}
	}()
	return ln.Addr().String()
}

// wire copies what comes from a to b.
func wire(a, b net.Conn) {
	type piece struct {
		at time.Time
		p  []byte
	}
	way := make(chan piece, 1<<10)
	go func() {
		for x := range way {
			time.Sleep(time.Until(x.at))
			b.Write(x.p)
		}
		b.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := a.Read(buf)
		if err != nil {
			break
		}
		way <- piece{time.Now().Add(*latency / 2), slices.Clone(buf[:n])}
	}
	close(way)
}
