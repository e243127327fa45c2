package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const bucket = "films"

// A server is a child process with versitygw, which is built for it.
type server struct {
	addr    string
	dir     string
	program string
	cmd     *exec.Cmd
}

// newServer builds and starts a server with an empty bucket.
func newServer() (*server, error) {
	program, err := build()
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
func (s *server) prepare() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr = ln.Addr().String()
	ln.Close()
	if err := s.start(); err != nil {
		return err
	}
	c := s3.NewFromConfig(config(s.addr), pathStyle)
	_, err = c.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(bucket)})
	return err
}

// build builds the program, once. Go keeps what was built.
var build = sync.OnceValues(func() (string, error) {
	_, file, _, _ := runtime.Caller(0)
	source := filepath.Join(filepath.Dir(file), "..", "versitygw")
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	name := filepath.Join(cache, "eventloop-e2e", "versitygw")
	out, err := exec.Command("go", "build", "-C", source, "-o", name, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build versitygw: %w\n%s", err, out)
	}
	return name, nil
})

// start starts the process, and waits until it listens.
func (s *server) start() error {
	s.cmd = exec.Command(s.program, s.addr, s.dir)
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("versitygw does not listen: %w\n%s", err, text)
		}
	}
}

// kill ends the process as a crash would.
func (s *server) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
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
