package awsloop_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/aws/smithy-go"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

// distributions is a server with n pages of one distribution each. The page with the number
// bad is refused.
func distributions(n, bad int) *recorder {
	return record(func(i int, w http.ResponseWriter, r *http.Request) {
		if i == bad {
			xmlAnswer(http.StatusForbidden, accessDenied)(i, w, r)
			return
		}
		more := ""
		if i < n-1 {
			more = fmt.Sprintf("<IsTruncated>true</IsTruncated><NextMarker>m%d</NextMarker>", i+1)
		}
		xmlAnswer(200, fmt.Sprintf(`<DistributionList>%s<Items><DistributionSummary><Id>E%d</Id></DistributionSummary></Items></DistributionList>`, more, i))(i, w, r)
	})
}

func paginator(c *cloudfront.Client) *cloudfront.ListDistributionsPaginator {
	return cloudfront.NewListDistributionsPaginator(c, &cloudfront.ListDistributionsInput{})
}

func idOf(page *cloudfront.ListDistributionsOutput) string {
	return aws.ToString(page.DistributionList.Items[0].Id)
}

func isDenied(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && e.ErrorCode() == "AccessDenied"
}

func TestPagesComeOneByOne(t *testing.T) {
	s := distributions(3, -1)
	var ids []string
	ended := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Pages(background(), w, paginator(c), func(page *cloudfront.ListDistributionsOutput) bool {
			ids = append(ids, idOf(page))
			if n := len(s.requests()); n != len(ids) {
				t.Errorf("%d requests at page %d", n, len(ids))
			}
			return true
		}).Then(func(_ struct{}, err error) {
			if ended++; err != nil {
				t.Error(err)
			}
		})
	})
	var uris []string
	for _, r := range s.requests() {
		uris = append(uris, r.uri)
	}
	if want := []string{"E0", "E1", "E2"}; ended != 1 || !slices.Equal(ids, want) {
		t.Errorf("%q, want %q; ended %d times", ids, want, ended)
	}
	if want := []string{"/2020-05-31/distribution", "/2020-05-31/distribution?Marker=m1", "/2020-05-31/distribution?Marker=m2"}; !slices.Equal(uris, want) {
		t.Errorf("%q, want %q", uris, want)
	}
}

func TestPagesEndWhenOnPageSaysSo(t *testing.T) {
	s := distributions(3, -1)
	pages := 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Pages(background(), w, paginator(c), func(*cloudfront.ListDistributionsOutput) bool {
			pages++
			return pages < 2
		}).Then(func(_ struct{}, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	})
	if n := len(s.requests()); pages != 2 || n != 2 {
		t.Errorf("%d pages of %d requests, want 2", pages, n)
	}
}

func TestAnErrorEndsPages(t *testing.T) {
	s := distributions(3, 1)
	pages, ended := 0, 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Pages(background(), w, paginator(c), func(*cloudfront.ListDistributionsOutput) bool {
			pages++
			return true
		}).Then(func(_ struct{}, err error) {
			ended++
			if !isDenied(err) {
				t.Errorf("%v, want AccessDenied", err)
			}
		})
	})
	if pages != 1 || ended != 1 {
		t.Errorf("%d pages; ended %d times", pages, ended)
	}
}

func TestCancelEndsPages(t *testing.T) {
	s := distributions(3, -1)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(background())
	pages, ended := 0, 0
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		awsloop.Pages(ctx, w, paginator(c), func(*cloudfront.ListDistributionsOutput) bool {
			pages++
			cancel(cause)
			return true
		}).Then(func(_ struct{}, err error) {
			if ended++; !errors.Is(err, cause) {
				t.Errorf("%v, want the cause", err)
			}
		})
	})
	if n := len(s.requests()); pages != 1 || ended != 1 || n != 1 {
		t.Errorf("%d pages of %d requests; ended %d times", pages, n, ended)
	}
}

func TestTheEndOfTheLoopEndsPages(t *testing.T) {
	s := distributions(3, -1)
	defer s.Close()
	var f *eventloop.Future[struct{}]
	onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		f = awsloop.Pages(background(), w, paginator(c), func(*cloudfront.ListDistributionsOutput) bool {
			l.Stop()
			return true
		})
	})
	if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("%v, want ErrLoopClosed", err)
	}
}

func TestAllPagesInATask(t *testing.T) {
	for _, c := range []struct {
		bad, limit int
		want       string
	}{
		{-1, 10, "[E0 E1 E2]"},
		{-1, 2, "[E0 E1]"},
		{1, 10, "[E0 denied]"},
	} {
		s := distributions(3, c.bad)
		var got []string
		onLoop(t, s, func(l *eventloop.Loop, w *eventloop.Workers, client *cloudfront.Client) {
			l.Go(background(), func(task *eventloop.Task) error {
				for page, err := range awsloop.AllPages(task, w, paginator(client)) {
					switch {
					case isDenied(err) && page == nil:
						got = append(got, "denied")
					case err != nil:
						return err
					default:
						got = append(got, idOf(page))
					}
					if len(got) == c.limit {
						break
					}
				}
				return nil
			})
		})
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
}
