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
	*child.Server
	dir string
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
	process, err := child.Start(program, func(addr string) []string { return []string{addr, dir} })
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s := &server{process, dir}
	c := s3.NewFromConfig(config(s.Addr), pathStyle)
	if _, err := c.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *server) stop() {
	s.Stop()
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
