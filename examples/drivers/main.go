// Drivers is a small shop whose loop uses all six drivers: an order arrives over HTTP, and
// its customer gets a mail with a link to the invoice.
//
//	go run . -redis 127.0.0.1:6379 -beanstalk 127.0.0.1:11300 -mongo mongodb://127.0.0.1 \
//		-s3 http://127.0.0.1:9000 -smtp 127.0.0.1:25
//	curl -d '{"mail":"ann@example.org","item":"tea"}' http://127.0.0.1:8080/orders
//	curl http://127.0.0.1:8080/orders/1
//
// The handler takes a number from Redis, stores the order in MongoDB, and puts a job into
// beanstalkd. A consumer queries a price service over HTTP (drakma), stores the invoice in
// S3, sends the mail over SMTP, and records its progress in Redis. The counters that /stats
// shows need no lock, because all callbacks and tasks run on one goroutine.
//
// A job that fails returns to the queue. It may run a second time, and then writes the same
// invoice to the same place. Ctrl-C lets requests and jobs finish.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/mail"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"github.com/onloop/eventloop/drivers/drakma"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/smtp"
)

const (
	tube   = "orders"
	bucket = "invoices"
	from   = "shop@example.org"
)

// An order is a document in MongoDB. It is also the JSON body that a customer posts.
type order struct {
	ID    int64   `bson:"_id" json:"id"`
	Mail  string  `bson:"mail" json:"mail"`
	Item  string  `bson:"item" json:"item"`
	Price float64 `bson:"price" json:"price"`
}

// A config has the addresses of the servers.
type config struct {
	listen, redis, beanstalk, mongo, s3, smtp, prices string
}

// A shop is used only on the loop.
type shop struct {
	loop    *eventloop.Loop
	server  *eventloop.HTTPServer
	numbers *redis.Client
	queue   *beanstalk.Client
	orders  *mongoloop.Collection[order]
	objects *s3.Client
	links   *s3.PresignClient
	workers *eventloop.Workers // of S3
	mails   *smtp.Client
	prices  *drakma.Client
	stats   struct{ Orders, Invoices, Retries int }
}

func main() {
	var cfg config
	flag.StringVar(&cfg.listen, "listen", "127.0.0.1:8080", "`address` of the shop")
	flag.StringVar(&cfg.redis, "redis", "127.0.0.1:6379", "`address` of Redis")
	flag.StringVar(&cfg.beanstalk, "beanstalk", "127.0.0.1:11300", "`address` of beanstalkd")
	flag.StringVar(&cfg.mongo, "mongo", "mongodb://127.0.0.1", "`URL` of MongoDB")
	flag.StringVar(&cfg.s3, "s3", "http://127.0.0.1:9000", "`URL` of S3; its bucket invoices must be there")
	flag.StringVar(&cfg.smtp, "smtp", "127.0.0.1:25", "`address` of the mail server")
	flag.StringVar(&cfg.prices, "prices", "", "`URL` of the price service; default: the shop itself")
	flag.Parse()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error { return open(l, cfg) })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("closed")
}

// open connects the shop to its servers and opens it.
func open(l *eventloop.Loop, cfg config) (err error) {
	s := &shop{loop: l}
	if s.numbers, err = redis.New(l, &redis.Options{Addr: cfg.redis}); err != nil {
		return err
	}
	if s.queue, err = beanstalk.New(l, &beanstalk.Options{Addr: cfg.beanstalk}); err != nil {
		return err
	}
	db, err := mongoloop.Connect(l, options.Client().ApplyURI(cfg.mongo))
	if err != nil {
		return err
	}
	s.orders = mongoloop.In[order](db, "shop", "orders")
	// A server in the local network may accept mail without TLS. For other servers, use
	// smtp.StartTLS, the default.
	if s.mails, err = smtp.New(l, &smtp.Options{Addr: cfg.smtp, Security: smtp.Opportunistic}); err != nil {
		return err
	}
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	s.objects = s3.NewFromConfig(awsloop.Config(l, aws.Config{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(cfg.s3),
		Credentials:  credentials.NewStaticCredentialsProvider(id, secret, ""),
	}), func(o *s3.Options) { o.UsePathStyle = true })
	s.links = s3.NewPresignClient(s.objects)
	s.workers = eventloop.NewWorkers(l, 8, "s3")

	if s.server, err = l.ListenHTTP(cfg.listen, s.handle, nil); err != nil {
		return err
	}
	if cfg.prices == "" {
		cfg.prices = "http://" + s.server.Addr().String()
	}
	s.prices = drakma.New(l, drakma.Options{BaseURL: cfg.prices, Retry: drakma.Retry{Max: 3}})
	_, err = s.queue.Consume(beanstalk.ConsumeOptions{Tubes: []string{tube}, Parallel: 4, OnJob: s.onJob})
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%v/\n", s.server.Addr())
	return l.ShutdownOn(10*time.Second, os.Interrupt, syscall.SIGTERM)
}

func (s *shop) handle(r *eventloop.HTTPRequest) {
	switch r.Method() + " " + r.Path() {
	case "POST /orders":
		s.reply(r, 202, s.take)
	case "GET /price":
		r.RespondJSON(200, float64(len(r.QueryValues().Get("item"))))
	case "GET /stats":
		r.RespondJSON(200, s.stats)
	default:
		s.reply(r, 200, s.state)
	}
}

var (
	errOrder   = errors.New("an order has a mail address and an item")
	errMissing = errors.New("no such page")
)

// reply runs f in a task, and responds with its result.
func (s *shop) reply(r *eventloop.HTTPRequest, status int, f func(t *eventloop.Task, r *eventloop.HTTPRequest) (any, error)) {
	s.loop.Go(r.Context(), func(t *eventloop.Task) error {
		v, err := f(t, r)
		switch {
		case errors.Is(err, errOrder):
			return r.RespondText(400, err.Error()+"\n")
		case errors.Is(err, errMissing), errors.Is(err, redis.ErrNil):
			return r.RespondText(404, errMissing.Error()+"\n")
		case err != nil:
			log.Print(err)
			return r.RespondText(502, "try again later\n")
		}
		return r.RespondJSON(status, v)
	})
}

// take takes an order.
func (s *shop) take(t *eventloop.Task, r *eventloop.HTTPRequest) (any, error) {
	ctx := t.Context()
	var o order
	if err := json.Unmarshal(r.Body(), &o); err != nil {
		return nil, fmt.Errorf("%w: %w", errOrder, err)
	}
	to, err := mail.ParseAddress(o.Mail)
	if err != nil || o.Item == "" {
		return nil, errOrder
	}
	o.Mail = to.Address
	if o.ID, err = s.numbers.Incr(ctx, "orders").Await(t); err != nil {
		return nil, err
	}
	if _, err := s.orders.InsertOne(ctx, o).Await(t); err != nil {
		return nil, err
	}
	if err := s.note(t, o.ID, "taken"); err != nil {
		return nil, err
	}
	if _, err := s.queue.Put(ctx, tube, strconv.AppendInt(nil, o.ID, 10), beanstalk.PutOptions{}).Await(t); err != nil {
		return nil, err
	}
	s.stats.Orders++
	return o, nil
}

// state returns the progress of an order.
func (s *shop) state(t *eventloop.Task, r *eventloop.HTTPRequest) (any, error) {
	id, err := strconv.ParseInt(strings.TrimPrefix(r.Path(), "/orders/"), 10, 64)
	if err != nil || r.Method() != "GET" {
		return nil, errMissing
	}
	return s.numbers.Get(t.Context(), key(id)).Await(t)
}

// note records the progress of an order.
func (s *shop) note(t *eventloop.Task, id int64, state string) error {
	_, err := s.numbers.Set(t.Context(), key(id), state).Await(t)
	return err
}

// key returns the Redis key for the state of an order.
func key(id int64) string { return fmt.Sprint("order:", id) }

func (s *shop) onJob(j *beanstalk.Job) {
	s.loop.Go(context.Background(), func(t *eventloop.Task) error {
		id, err := strconv.ParseInt(string(j.Body), 10, 64)
		if err != nil {
			log.Printf("job %d: %v", j.ID, err)
			_, err = j.Bury(0).Await(t)
			return err
		}
		if err := s.send(t, id); err != nil {
			log.Printf("order %d: %v", id, err)
			s.stats.Retries++
			_, err = j.Release(0, time.Second).Await(t)
			return err
		}
		s.stats.Invoices++
		_, err = j.Delete().Await(t)
		return err
	})
}

// send writes the invoice of an order and sends a mail with a link to it.
func (s *shop) send(t *eventloop.Task, id int64) error {
	ctx := t.Context()
	o, err := s.orders.FindOne(ctx, bson.M{"_id": id}).Await(t)
	if err != nil {
		return err
	}
	if _, err := s.prices.Get(ctx, "/price").Query("item", o.Item).Into(&o.Price).Await(t); err != nil {
		return err
	}
	if _, err := s.orders.ReplaceOne(ctx, bson.M{"_id": id}, o).Await(t); err != nil {
		return err
	}

	name := fmt.Sprintf("%d.txt", id)
	w, stored := s3loop.Upload(ctx, s.workers, s.objects, &s3loop.UploadInput{Bucket: aws.String(bucket), Key: &name})
	fmt.Fprintf(w, "Invoice %d\n\n%s  %.2f\n", id, o.Item, o.Price)
	w.Close()
	if _, err := stored.Await(t); err != nil {
		return err
	}
	link, err := awsloop.Call(ctx, s.workers, s.links.PresignGetObject, &s3.GetObjectInput{Bucket: aws.String(bucket), Key: &name}).Await(t)
	if err != nil {
		return err
	}

	text := fmt.Sprintf("From: %s\r\nTo: %s\r\nSubject: Invoice %d\r\n\r\n%s\r\n", from, o.Mail, id, link.URL)
	if _, err := s.mails.Send(ctx, smtp.Mail{From: from, To: []string{o.Mail}, Body: []byte(text)}).Await(t); err != nil {
		return err
	}
	return s.note(t, id, "sent")
}
