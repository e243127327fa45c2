package httpbridge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/onloop/eventloop"
)

func TestS3OfTheAWSSDKWorksOverTheRoundTripper(t *testing.T) {
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer server.Close()
	onLoop(t, nil, func(t *testing.T, l *eventloop.Loop) {
		client := s3.New(s3.Options{
			BaseEndpoint: aws.String(server.URL),
			Region:       "us-east-1",
			UsePathStyle: true,
			Credentials:  credentials.NewStaticCredentialsProvider("key", "secret", ""),
			HTTPClient:   &http.Client{Transport: l.HTTP().RoundTripper()},
			Retryer:      aws.NopRetryer{}, // whose sleep would block the loop in a task
		})
		bucket, key := aws.String(map[bool]string{true: "one", false: "two"}[t.Name()[len(t.Name())-4:] == "Work"]), aws.String("a/b")
		content := bytes.Repeat([]byte("0123456789abcdef"), 4<<16) // 4 MB
		check := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		_, err := client.CreateBucket(bg, &s3.CreateBucketInput{Bucket: bucket})
		check("CreateBucket", err)
		_, err = client.PutObject(bg, &s3.PutObjectInput{Bucket: bucket, Key: key, Body: bytes.NewReader(content)})
		check("PutObject", err)

		out, err := client.GetObject(bg, &s3.GetObjectInput{Bucket: bucket, Key: key})
		check("GetObject", err)
		if err == nil {
			got, err := io.ReadAll(out.Body)
			check("body", err)
			out.Body.Close()
			if !bytes.Equal(got, content) {
				t.Errorf("%d bytes, want %d", len(got), len(content))
			}
		}
		out, err = client.GetObject(bg, &s3.GetObjectInput{Bucket: bucket, Key: key, Range: aws.String("bytes=16-19")})
		check("GetObject of a range", err)
		if err == nil {
			got, err := io.ReadAll(out.Body)
			if string(got) != "0123" || err != nil {
				t.Errorf("range: %q, %v", got, err)
			}
			out.Body.Close()
		}
		out, err = client.GetObject(bg, &s3.GetObjectInput{Bucket: bucket, Key: key})
		check("GetObject that is not read", err)
		if err == nil {
			out.Body.Close()
		}
		_, err = client.GetObject(bg, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("none")})
		if missing := new(types.NoSuchKey); !errors.As(err, &missing) {
			t.Errorf("GetObject of nothing: %v", err)
		}
		list, err := client.ListObjectsV2(bg, &s3.ListObjectsV2Input{Bucket: bucket})
		check("ListObjectsV2", err)
		if err == nil && len(list.Contents) != 1 {
			t.Errorf("%d objects", len(list.Contents))
		}
		ctx, cancel := context.WithCancel(bg)
		cancel()
		_, err = client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: bucket})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	})
}
