package awsloop_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/cloudfront/sign"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront"
	"github.com/aws/aws-sdk-go-v2/service/cloudfront/types"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

// withCloudFront runs f on a loop, with workers and a client of a server that plays
// CloudFront.
func withCloudFront(s *recorder, f func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client)) {
	defer s.Close()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		f(l, eventloop.NewWorkers(l, 8, "cloudfront"), cloudfront.NewFromConfig(config(l, s.URL)))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	server := record(xmlAnswer(http.StatusCreated, invalidationCreated)) // instead of Amazon's
	defer server.Close()
	credentials := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}, nil
	})
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		cfg := awsloop.Config(l, aws.Config{Region: "us-east-1", Credentials: credentials, BaseEndpoint: &server.URL})
		c := cloudfront.NewFromConfig(cfg)
		w := eventloop.NewWorkers(l, 8, "cloudfront")
		awsloop.Call(ctx, w, c.CreateInvalidation, &cloudfront.CreateInvalidationInput{
			DistributionId: aws.String("E2QWRUHAPOMQZL"),
			InvalidationBatch: &types.InvalidationBatch{
				CallerReference: aws.String("deploy-17"),
				Paths:           &types.Paths{Items: []string{"/index.html", "/img/*"}, Quantity: aws.Int32(2)},
			},
		}).Then(func(out *cloudfront.CreateInvalidationOutput, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(*out.Invalidation.Id, *out.Invalidation.Status)
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: I1 InProgress
}

func ExampleConfig() {
	server := record(xmlAnswer(200, `<Distribution><Id>E1</Id><Status>Deployed</Status></Distribution>`))
	defer server.Close()
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		// Usually the configuration comes from config.LoadDefaultConfig, in a function of
		// eventloop.Work, because that reads files and may send requests.
		cfg := aws.Config{Region: "us-east-1", Credentials: aws.AnonymousCredentials{}, BaseEndpoint: &server.URL}
		c := cloudfront.NewFromConfig(awsloop.Config(l, cfg))
		w := eventloop.NewWorkers(l, 8, "cloudfront")
		awsloop.Call(ctx, w, c.GetDistribution, &cloudfront.GetDistributionInput{Id: aws.String("E1")}).
			Then(func(out *cloudfront.GetDistributionOutput, err error) {
				if err != nil {
					fmt.Println(err)
					return
				}
				fmt.Println(*out.Distribution.Id, *out.Distribution.Status)
			})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: E1 Deployed
}

func ExampleHTTPClient() {
	server := record(xmlAnswer(200, `<Distribution><Id>E1</Id></Distribution>`))
	defer server.Close()
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		hc := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			ConnectTimeout:    3 * time.Second,
			InactivityTimeout: 10 * time.Second,
			MaxConnsPerHost:   16,
		})
		cfg := aws.Config{Region: "us-east-1", Credentials: aws.AnonymousCredentials{}, BaseEndpoint: &server.URL}
		cfg.HTTPClient = awsloop.HTTPClient(hc)
		c := cloudfront.NewFromConfig(cfg)
		w := eventloop.NewWorkers(l, 8, "cloudfront")
		awsloop.Call(ctx, w, c.GetDistribution, &cloudfront.GetDistributionInput{Id: aws.String("E1")}).
			Then(func(out *cloudfront.GetDistributionOutput, err error) { fmt.Println(*out.Distribution.Id, err) })
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: E1 <nil>
}

func ExampleCall() {
	withCloudFront(record(xmlAnswer(http.StatusForbidden, accessDenied)), func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			in := &cloudfront.GetInvalidationInput{DistributionId: aws.String("E1"), Id: aws.String("I1")}
			_, err := awsloop.Call(t.Context(), w, c.GetInvalidation, in).Await(t) // suspends the task, never the loop
			fmt.Println(err)
			return nil
		})
	})
	// Output: operation error CloudFront: GetInvalidation, https response error StatusCode: 403, RequestID: r1, AccessDenied: no
}

func ExamplePages() {
	withCloudFront(distributions(3, -1), func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		pages := cloudfront.NewListDistributionsPaginator(c, &cloudfront.ListDistributionsInput{})
		awsloop.Pages(context.Background(), w, pages, func(page *cloudfront.ListDistributionsOutput) bool {
			for _, d := range page.DistributionList.Items {
				fmt.Println(*d.Id)
			}
			return true // the next page
		}).Then(func(_ struct{}, err error) { fmt.Println("end:", err) })
	})
	// Output:
	// E0
	// E1
	// E2
	// end: <nil>
}

func ExampleAllPages() {
	withCloudFront(distributions(3, -1), func(l *eventloop.Loop, w *eventloop.Workers, c *cloudfront.Client) {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			pages := cloudfront.NewListDistributionsPaginator(c, &cloudfront.ListDistributionsInput{})
			for page, err := range awsloop.AllPages(t, w, pages) {
				if err != nil {
					return err
				}
				fmt.Println(*page.DistributionList.Items[0].Id)
			}
			return nil
		})
	})
	// Output:
	// E0
	// E1
	// E2
}

// Signing is pure computing, so it may be done in any callback.
func Example_signedURL() {
	key, err := sign.LoadPEMPrivKey(strings.NewReader(publishedKey))
	if err != nil {
		log.Fatal(err)
	}
	signer := sign.NewURLSigner(publishedKeyID, key)
	u, err := signer.Sign("https://d604721fxaaqy9.cloudfront.net/horizon.jpg", time.Unix(1258237200, 0))
	if err != nil {
		log.Fatal(err)
	}
	before, _, _ := strings.Cut(u, "&Signature=")
	fmt.Println(before)
	// Output: https://d604721fxaaqy9.cloudfront.net/horizon.jpg?Expires=1258237200
}

// Signed cookies give access to many objects: here, to all films for an hour.
func Example_signedCookies() {
	key, err := sign.LoadPEMPrivKey(strings.NewReader(publishedKey))
	if err != nil {
		log.Fatal(err)
	}
	signer := sign.NewCookieSigner(publishedKeyID, key, func(o *sign.CookieOptions) {
		o.Domain, o.Path, o.Secure = "films.example.com", "/films/", true
	})
	cookies, err := signer.Sign("https://films.example.com/films/*", time.Now().Add(time.Hour))
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range cookies { // each of them goes into a Set-Cookie field of a response
		fmt.Println(c.Name, c.Domain, c.Path, c.Secure)
	}
	// Output:
	// CloudFront-Policy films.example.com /films/ true
	// CloudFront-Signature films.example.com /films/ true
	// CloudFront-Key-Pair-Id films.example.com /films/ true
}
