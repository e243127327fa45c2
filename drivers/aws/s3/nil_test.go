package s3loop_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/onloop/eventloop"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
)

func TestWhatIsGivenNilSaysSo(t *testing.T) {
	var none *s3.Client
	var noContext context.Context
	failures := 0
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, _ *server) {
		for name, test := range map[string]struct {
			call func()
			want string
		}{
			"Upload, context":     {func() { s3loop.Upload(noContext, w, c, target("a")) }, "s3loop: nil context"},
			"Upload, workers":     {func() { s3loop.Upload(background(), nil, c, target("a")) }, "s3loop: nil Workers"},
			"UploadFrom, context": {func() { s3loop.UploadFrom(noContext, w, c, target("a")) }, "s3loop: nil context"},
			"UploadFrom, workers": {func() { s3loop.UploadFrom(background(), nil, c, target("a")) }, "s3loop: nil Workers"},
			"Download, context":   {func() { s3loop.Download(noContext, l, c, in("a"), func([]byte) {}, func(error) {}, nil) }, "s3loop: nil context"},
			"Download, loop":      {func() { s3loop.Download(background(), nil, c, in("a"), func([]byte) {}, func(error) {}, nil) }, "eventloop: nil Loop"},
			"Download, client":    {func() { s3loop.Download(background(), l, none, in("a"), func([]byte) {}, func(error) {}, nil) }, "s3loop: Download needs a client, an input and two functions"},
			"DownloadTo, context": {func() { s3loop.DownloadTo(noContext, w, c, in("a"), io.Discard, nil) }, "eventloop: nil context"},
			"DownloadTo, workers": {func() { s3loop.DownloadTo(background(), nil, c, in("a"), io.Discard, nil) }, "eventloop: nil Workers"},
		} {
			if got := recovered(test.call); got != test.want {
				t.Errorf("%s: panic %q, want %q", name, got, test.want)
			}
		}
		fails := func(what, want string) func(err error) {
			return func(err error) {
				failures++
				if err == nil || err.Error() != want {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		// An upload that began has an Error with the offset.
		_, f := s3loop.Upload(background(), w, none, target("a"))
		upload := fails("Upload", "s3loop: upload of s3:/// failed at byte 0: s3loop: nil client")
		f.Then(func(_ *s3loop.UploadOutput, err error) { upload(err) })
		download := fails("DownloadTo, client", "s3loop: nil client")
		s3loop.DownloadTo(background(), w, none, in("a"), io.Discard, nil).Then(func(_ *s3.GetObjectOutput, err error) { download(err) })
		writer := fails("DownloadTo, writer", "s3loop: nil writer")
		s3loop.DownloadTo(background(), w, c, in("a"), nil, nil).Then(func(_ *s3.GetObjectOutput, err error) { writer(err) })
	})
	if failures != 3 {
		t.Errorf("%d failures, want 3", failures)
	}
}

// recovered returns the text of the panic of f.
func recovered(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}
