package awsloop_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

func TestWhatIsGivenNilSaysSo(t *testing.T) {
	var pages awsloop.Paginator[cloudfront.ListDistributionsOutput, cloudfront.Options]
	onLoop(t, record(func(int, http.ResponseWriter, *http.Request) {}), func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		paginator := cloudfront.NewListDistributionsPaginator(c, nil)
		onPage := func(*cloudfront.ListDistributionsOutput) bool { return true }
		var noContext context.Context
		for name, test := range map[string]struct {
			call func()
			want string
		}{
			"Config":         {func() { awsloop.Config(nil, aws.Config{}) }, "awsloop: nil Loop"},
			"HTTPClient":     {func() { awsloop.HTTPClient(nil) }, "awsloop: nil HTTPClient"},
			"Call, context":  {func() { awsloop.Call(noContext, w, c.CreateInvalidation, nil) }, "eventloop: nil context"},
			"Call, workers":  {func() { awsloop.Call(background(), nil, c.CreateInvalidation, nil) }, "eventloop: nil Workers"},
			"Pages, context": {func() { awsloop.Pages(noContext, w, paginator, onPage) }, "eventloop: nil context"},
			"Pages, workers": {func() { awsloop.Pages(background(), nil, paginator, onPage) }, "eventloop: nil Workers"},
		} {
			if got := panicOf(test.call); got != test.want {
				t.Errorf("%s: panic %q, want %q", name, got, test.want)
			}
		}
		fails := func(what string, f *eventloop.Future[struct{}]) {
			f.Then(func(_ struct{}, err error) {
				if fmt.Sprint(err) != "awsloop: Pages needs a paginator and a function" {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		fails("paginator", awsloop.Pages(background(), w, pages, onPage))
		fails("function", awsloop.Pages(background(), w, paginator, nil))
	})
}

func panicOf(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}
