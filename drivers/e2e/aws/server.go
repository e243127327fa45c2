package main

import (
	"context"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

const bucket = "films"

// A server is a child process with versitygw, which is built for it.
type server struct {
	addr    string
	dir     string
	program string
	process *child.Server
}

// newServer builds and starts a server with an empty bucket.
func newServer() (*server, error) {
	program, err := child.Build("versitygw", ".")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "versitygw")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, program: program}
	if err := s.prepare(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// prepare starts the server on a free port and makes the bucket.
func (s *server) prepare() (err error) {
	if s.addr, err = child.FreeAddr(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	c := s3.NewFromConfig(config(s.addr), pathStyle)
	_, err = c.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(bucket)})
	return err
}

// start starts the process, and waits until it listens.
func (s *server) start() (err error) {
	s.process, err = child.Start(s.addr, s.program, s.addr, s.dir)
	return err
}

// kill ends the process as a crash would.
func (s *server) kill() {
	if s.process != nil {
		s.process.Stop()
	}
}

func (s *server) stop() {
	s.kill()
	os.RemoveAll(s.dir)
}

// config is the configuration of a client of the server, with the SDK's own HTTP client.
func config(addr string) aws.Config {
	return aws.Config{
		Region:       "us-east-1",
		BaseEndpoint: aws.String("http://" + addr),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}, nil
		}),
	}
}

func pathStyle(o *s3.Options) { o.UsePathStyle = true }
